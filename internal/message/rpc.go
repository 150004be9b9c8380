package message

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	messagev1 "plinth/api/plinth/message/v1"
)

// RPC is MessageService on the wire.
type RPC struct {
	service *Service
	grace   time.Duration
	around  Around
}

// Around is what stands around every call, for what a call cannot leave to it: parts that are answered one by one, and
// streams that are to finish.
type Around struct {
	// Validate holds a message against the rules in its proto.
	Validate func(proto.Message) error
	// Error gives an error as clients see it.
	Error func(ctx context.Context, err error) (code, message string)
	// Finishing gives a context that ends when the stream of ctx is to finish.
	Finishing func(ctx context.Context) context.Context
}

var _ messagev1.MessageServiceHandler = (*RPC)(nil)

// NewRPC makes the handler. Streams that are to finish send no more and end once their clients have settled what they hold, at
// the latest after grace.
func NewRPC(service *Service, grace time.Duration, around Around) *RPC {
	return &RPC{service: service, grace: grace, around: around}
}
