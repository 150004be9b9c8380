package rpc

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	rpcv1 "plinth/api/plinth/rpc/v1"
)

// maxWaitOf returns how long callers of a unary method may wait for something, as its proto declares it; 0 means not at all.
func maxWaitOf(m protoreflect.MethodDescriptor) time.Duration {
	seconds, _ := proto.GetExtension(m.Options(), rpcv1.E_MaxWaitSeconds).(int32)
	return time.Duration(seconds) * time.Second
}

// waits reports whether a request to the method asks to wait.
func (m *method) waits(request any) bool {
	r, ok := request.(interface{ GetWait() *durationpb.Duration })
	return ok && m.maxWait > 0 && r.GetWait().AsDuration() > 0
}

// wait processes a call that waits. It counts as a stream meanwhile: it would take a place among the unary calls for as long as it
// waits, and its duration says nothing about the load. Like a stream, it is to end when Finishing says so, and it is ended when its
// credential is no longer valid.
func (s *Stack) wait(ctx context.Context, c *call, m *method, req connect.AnyRequest, next connect.UnaryFunc) (connect.AnyResponse, error) {
	end, err := s.openStream(c, m)
	if err != nil {
		return nil, err
	}
	defer end()
	o := &stream{call: c}
	o.ctx, o.cancel = context.WithCancelCause(ctx)
	defer o.cancel(nil)
	defer s.watch(o)()
	res, err := next(o.ctx, req)
	return res, o.outcome(err)
}
