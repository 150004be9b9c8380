package message

import (
	"time"

	messagev1 "plinth/api/plinth/message/v1"
)

// RPC is MessageService on the wire. Connect drops the reply of a method that returns an error, too.
type RPC struct {
	service *Service
	grace   time.Duration
}

var _ messagev1.MessageServiceHandler = (*RPC)(nil)

// NewRPC returns the handler. Streams that are to finish send no more and end once their clients have settled what they hold, at
// the latest after grace.
func NewRPC(service *Service, grace time.Duration) *RPC {
	return &RPC{service: service, grace: grace}
}
