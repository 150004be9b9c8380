package message

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

// Middleware returns a function that does something around next, which handles a message. It runs in the handler's context, before the
// transaction of the Tx variants begins and after it has ended. What it returns decides what becomes of the message.
type Middleware func(next func(context.Context, Message) error) func(context.Context, Message) error

// Around returns the handlers with middleware around each of them, the first one outermost.
func Around(handlers []Handler, middleware ...Middleware) []Handler {
	all := make([]Handler, len(handlers))
	for i, h := range handlers {
		h.around = append(append([]Middleware{}, middleware...), h.around...)
		all[i] = h
	}
	return all
}

// Snooze returns an error with which a handler gives its message back for later: it comes again after d, up to MaxDelay, and no attempt is
// counted. The Tx variants roll back.
func Snooze(d time.Duration) error { return &snooze{min(max(d, 0), MaxDelay)} }

type snooze struct{ delay time.Duration }

func (s *snooze) Error() string { return "snoozed for " + s.delay.String() }

// call calls the handler with its context, its middleware, and recover.
func (h Handler) call(ctx context.Context, db *pg.DB, log *zap.Logger, m Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			log.Error("handler panicked", zap.Inline(tenantQueue{auth.TenantOf(ctx), h.queue}), zap.String("id", m.ID), zap.Error(err),
				zap.ByteString("stack", debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, errTimeout(h.timeout))
	defer cancel()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errTimeout(h.timeout)) {
			err = fmt.Errorf("%w: %w", errTimeout(h.timeout), err)
		}
	}()
	ctx = observe.WithTrace(ctx, m.headers["traceparent"], m.headers["tracestate"])
	ctx = context.WithValue(ctx, messageKey{}, m)
	handle := h.handle
	if h.handleTx != nil {
		handle = h.once(db)
	}
	for i := len(h.around) - 1; i >= 0; i-- {
		handle = h.around[i](handle)
	}
	if err := handle(ctx, m); err != nil || h.handleTx != nil {
		return err
	}
	return ctx.Err() // A handler that returns because its time is over has not handled the message. A transaction that is committed has.
}

// once returns the handler's function in a transaction that records that the consumer has handled the message.
func (h Handler) once(db *pg.DB) func(context.Context, Message) error {
	return func(ctx context.Context, m Message) error {
		return db.InTx(ctx, func(tx *pg.Tx) error {
			first, err := insertHandled(ctx, tx, h.consumer, m.ID)
			if err != nil || !first {
				return err
			}
			return h.handleTx(ctx, tx, m)
		})
	}
}

// failed returns the failure of an attempt whose error is not nil.
func (h Handler) failed(m Message, err error) *failure {
	var later *snooze
	if errors.As(err, &later) && !errors.As(err, new(errTimeout)) {
		return &failure{message: m, reason: m.reason, postponed: true, delay: &later.delay}
	}
	return &failure{message: m, reason: err.Error(), permanent: !errs.Retryable(err), most: h.maxAttempts}
}

// errTimeout is the reason of an attempt that took longer than it may.
type errTimeout time.Duration

func (e errTimeout) Error() string {
	return "the handler took longer than " + time.Duration(e).String()
}
