package message

import (
	"context"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// lapse counts the attempt of a pulled message whose lease ended at the given time.
func (e *envelope) lapse(at time.Time) {
	f := cutShort(Message{Attempt: e.attempts + 2, reason: e.reason}) // The next delivery would be that attempt.
	e.attempts, e.reason = f.message.Attempt, errs.Shortened(f.reason, maxReason)
	if e.firstFailedAt.IsZero() {
		e.firstFailedAt = at
	}
}

// buryLapsed makes dead letters of those messages of a batch that were pulled and whose last attempt is over, and returns the others.
func (r *relay) buryLapsed(ctx context.Context, tx *pg.Tx, batch []*envelope) (left []*envelope, err error) {
	var queues []tenantQueue
	for _, m := range batch {
		if m.lapsed {
			queues = append(queues, tenantQueue{m.tenant, m.to.queue})
		}
	}
	if len(queues) == 0 {
		return batch, nil
	}
	most, err := selectMaxAttemptsOf(ctx, tx, queues)
	if err != nil {
		return nil, err
	}
	var s settlement
	for _, m := range batch {
		n, exists := most[tenantQueue{m.tenant, m.to.queue}]
		if !m.lapsed || !exists || m.attempts < n {
			left = append(left, m)
			continue
		}
		s.gone = append(s.gone, m)
		err := insertDeadLetter(auth.AsService(ctx, m.tenant), tx, DeadLetter{
			ID: uuid.Must(uuid.NewV7()).String(), Queue: m.to.queue, MessageID: m.id, Reason: m.reason, Attempts: m.attempts,
			FirstFailedAt: m.firstFailedAt, LastFailedAt: time.Now(), Attributes: m.attributes, Body: m.body, headers: m.headers,
		})
		if err != nil {
			return nil, err
		}
	}
	return left, settleWaiting(ctx, tx, s)
}
