package rpc

import (
	"context"
	"errors"
	"os"
	"time"

	"plinth/internal/errs"
)

// Pace limits how long the handler of an RPC waits for its client while it streams bytes, as Route.Stall does for plain routes. How
// long the handler takes between messages is not the client's fault.
type Pace struct {
	call *call
	pace *pace
}

// PaceOf returns the Pace of the stream whose handler has the context ctx.
func PaceOf(ctx context.Context, stall time.Duration) Pace {
	c := callFrom(ctx)
	return Pace{c, &pace{call: c, stall: stall}}
}

// Receive calls receive, which receives a message of the stream. If none comes in time, the stream ends with DeadlineExceeded.
func (p Pace) Receive(receive func() bool) bool {
	stream := p.call.stream
	if stream == nil {
		return receive()
	}
	timer := time.AfterFunc(p.pace.stall, func() {
		stream.end(errs.New(errs.DeadlineExceeded, "no message of the stream came for %v", p.pace.stall))
	})
	defer timer.Stop()
	return receive()
}

// Send calls send, which sends a message. Its error is DeadlineExceeded if the client takes nothing of the message for too long.
func (p Pace) Send(send func() error) error {
	p.call.pace = p.pace
	err := send()
	p.call.pace = nil
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errs.Wrap(err, errs.DeadlineExceeded, "no byte of the stream was taken for %v", p.pace.stall)
	}
	return err
}
