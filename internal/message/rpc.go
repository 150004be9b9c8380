package message

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	messagev1 "plinth/api/plinth/message/v1"
)

// RPC is MessageService on the wire.
type RPC struct {
	service  *Service
	draining context.Context
	grace    time.Duration
	parts    Parts
}

// Parts is what stands around every call, for the parts of a call that are answered one by one.
type Parts struct {
	// Validate holds a message against the rules in its proto.
	Validate func(proto.Message) error
	// Error gives an error as clients see it.
	Error func(ctx context.Context, err error) (code, message string)
}

var _ messagev1.MessageServiceHandler = (*RPC)(nil)

// NewRPC makes the handler. When draining ends, streams send no more and end once their clients have settled what they
// hold, at the latest after grace.
func NewRPC(draining context.Context, service *Service, grace time.Duration, parts Parts) *RPC {
	return &RPC{service: service, draining: draining, grace: grace, parts: parts}
}
