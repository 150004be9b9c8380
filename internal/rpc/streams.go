package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"plinth/internal/errs"
)

// firstMessage is how long a stream may be open before its client has sent a message.
const firstMessage = 10 * time.Second

// recheck is how often a stream's credential is checked again. A stream must end within a second of losing its permission.
const recheck = 500 * time.Millisecond

var (
	errSilent    = errs.New(errs.DeadlineExceeded, "no message came within %v of opening the stream", firstMessage)
	errSlow      = errs.New(errs.DeadlineExceeded, "a message of the stream took too long to arrive")
	errFinishing = errs.New(errs.Unavailable, "the stream is too old, or this server stops; open it again")
)

// openStream counts a stream, and returns an error if there are too many: of the tenant, or of all. Those of public methods
// are counted by themselves and by address, so that who has no key cannot take the places of who has one.
func (s *Stack) openStream(c *call, m *method) (end func(), err error) {
	places, owner, most := s.streams, s.sharer(c), s.Limits.Streams
	if m.public {
		places, owner, most = s.publicStreams, c.owner(), s.Limits.PublicStreams
	}
	if places == nil {
		return func() {}, nil
	}
	if err := places.Acquire(context.Background(), owner, 1, 0); err != nil {
		return nil, errs.New(errs.ResourceExhausted,
			"this server takes %d such streams, of one tenant or address only a part, and no more now; try again, another server may",
			most).Because("TOO_MANY_STREAMS").After(time.Second)
	}
	return func() { places.Release(owner, 1) }, nil
}

// stream is a stream that is open. It ends early, whatever its handler waits for: without a first message, with a message that
// does not arrive, when its credential is no longer valid, and when it has been told to finish and does not. A client that reads nothing
// does not keep it open, either.
type stream struct {
	connect.StreamingHandlerConn
	ctx    context.Context
	cancel context.CancelCauseFunc
	call   *call
	public bool

	mu        sync.Mutex
	receiving bool
	sending   bool
	spoken    bool  // the first message is there
	overdue   error // why the first message comes too late
}

// open returns the stream of a call, and what frees it once its handler has returned. Its ctx is the handler's.
func (s *Stack) open(ctx context.Context, c *call, m *method, conn connect.StreamingHandlerConn) (*stream, func()) {
	o := &stream{StreamingHandlerConn: conn, call: c, public: m.public}
	o.ctx, o.cancel = context.WithCancelCause(ctx)
	c.stream = o
	silent := time.AfterFunc(firstMessage, func() { o.endIfSilent(errSilent) })
	finish := context.AfterFunc(Finishing(ctx), func() { o.finish(s.Timeout) })
	watched := s.watch(o)
	if c.intake != nil {
		c.intake.late, c.intake.limit = time.AfterFunc(s.Timeout, func() { o.end(errSlow) }), s.Timeout
		c.intake.late.Stop()
	}
	return o, func() {
		silent.Stop()
		finish()
		watched()
		o.cancel(nil)
		c.mu.Lock()
		c.over = true // The connection may have another request already.
		c.mu.Unlock()
	}
}

// finish ends a stream that does not finish by itself: at once if it does nothing that would have to be finished. Handlers of
// public methods know nothing of the end of streams; to them it looks as if the client had half-closed.
func (o *stream) finish(grace time.Duration) {
	if o.public {
		o.end(io.EOF)
		return
	}
	o.endIfSilent(errFinishing)
	select {
	case <-time.After(grace):
		o.end(errFinishing)
	case <-o.ctx.Done():
	}
}

// endIfSilent ends a stream whose handler waits for the first message, or will.
func (o *stream) endIfSilent(why error) {
	o.mu.Lock()
	o.overdue = why
	waits := o.receiving && !o.spoken
	o.mu.Unlock()
	if waits {
		o.end(why)
	}
}

// end ends the context of the handler, and a Receive or a Send that waits for the client.
func (o *stream) end(why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cancel(why)
	if o.receiving {
		o.call.stopReading()
	}
	if o.sending { // After that, nothing more can be sent.
		_ = o.call.connection().SetWriteDeadline(time.Now())
	}
}

// why returns why the stream was ended early, or nil if it was not.
func (o *stream) why() error {
	if cause := context.Cause(o.ctx); o.ctx.Err() != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// outcome returns the error of a stream whose handler has returned one.
func (o *stream) outcome(err error) error {
	why := o.why()
	if err == nil || why == nil {
		return err
	}
	if errors.Is(why, io.EOF) {
		return nil
	}
	return why
}

// Receive validates each message when it is received. The memory of the one before is given back first.
func (o *stream) Receive(message any) error {
	body := o.call.intake
	if body != nil {
		body.keep(0)
	}
	err := o.receive(message)
	if err == nil {
		err = takeFault(message)
	}
	if body != nil {
		body.decoded(message)
	}
	if err != nil {
		return err
	}
	return validate(message)
}

// Send sends a message, unless the stream was ended. Handlers of public methods may send on after that.
func (o *stream) Send(message any) error {
	o.mu.Lock()
	if why := o.why(); why != nil && !errors.Is(why, io.EOF) {
		o.mu.Unlock()
		return why
	}
	o.sending = true
	o.mu.Unlock()
	err := o.StreamingHandlerConn.Send(message)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sending = false
	return err
}

func (o *stream) receive(message any) error {
	o.mu.Lock()
	why := o.why()
	if why == nil && !o.spoken {
		why = o.overdue
	}
	if why != nil {
		o.mu.Unlock()
		return why
	}
	o.receiving = true
	o.mu.Unlock()
	err := o.StreamingHandlerConn.Receive(message)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.receiving = false
	if why := o.why(); err != nil && why != nil {
		return why
	}
	o.spoken = o.spoken || err == nil
	return bare(err)
}

// watch ends a stream when its credential is no longer valid, for example because it was revoked or has expired. If the
// credential cannot be checked at the moment, the stream stays open.
func (s *Stack) watch(o *stream) (stop func()) {
	if s.Authenticate == nil || o.call.principal == nil {
		return func() {}
	}
	var timer *time.Timer
	armed := make(chan struct{})
	timer = time.AfterFunc(recheck, func() {
		<-armed
		_, err := s.identify(o.ctx, o.call)
		switch {
		case o.ctx.Err() != nil:
		case errs.Is(err, errs.Unauthenticated), errs.Is(err, errs.PermissionDenied):
			o.end(err)
		default:
			timer.Reset(recheck)
		}
	})
	close(armed)
	return func() { timer.Stop() }
}
