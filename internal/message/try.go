package message

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// Fate is what becomes of a message after an attempt.
type Fate int

// The fates of a message.
const (
	Acked      Fate = iota // it was handled
	TriedAgain             // it comes again after the queue's back-off
	Snoozed                // it comes again after the time that the handler said, and no attempt was counted
	Buried                 // it is a dead letter
)

// Outcome is the result of Try.
type Outcome struct {
	Fate  Fate
	Err   error         // of the handler, a panic included; nil if the message was handled
	Delay time.Duration // of a message that was snoozed
}

// Try calls a handler for a message as a worker does, with its timeout, its middleware, its payload decoded and a panic recovered, and
// reports what would become of the message. It is for tests of handlers: there is no queue and no broker, and nothing is moved. Without
// a tenant in ctx it acts for the default one; a message without an id gets one, and its first attempt is 1. db is for the Tx variants,
// and may be nil for others. The queue's max_attempts are those of DefaultPolicy unless the handler has its own.
func Try(ctx context.Context, h Handler, db *pg.DB, m Message) Outcome {
	if auth.TenantOf(ctx) == "" {
		ctx = auth.AsService(ctx, auth.DefaultTenant)
	}
	if m.ID == "" {
		m.ID = uuid.Must(uuid.NewV7()).String()
	}
	m.Attempt = max(m.Attempt, 1)
	err := h.call(ctx, db, zap.NewNop(), m)
	if err == nil {
		return Outcome{}
	}
	f := h.failed(m, err)
	switch {
	case f.postponed:
		return Outcome{Fate: Snoozed, Err: err, Delay: *f.delay}
	case f.isDead(DefaultPolicy):
		return Outcome{Fate: Buried, Err: err}
	default:
		return Outcome{Fate: TriedAgain, Err: err}
	}
}
