package message

import (
	"time"

	messagev1 "plinth/api/plinth/message/v1"
)

// RPC implements MessageService. If a method returns an error, Connect ignores its reply.
type RPC struct {
	service *Service
	grace   time.Duration
}

var _ messagev1.MessageServiceHandler = (*RPC)(nil)

// NewRPC returns an RPC. Streams that are asked to finish send no more messages, and end once their clients have settled
// what they hold, or after grace.
func NewRPC(service *Service, grace time.Duration) *RPC {
	return &RPC{service: service, grace: grace}
}
