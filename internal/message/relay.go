package message

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

const (
	// relayLanes is how many batches of a relay are on their way at a time, fewer where connections are few: while one waits
	// for the broker, the next one is read.
	relayLanes = 3
	// A batch has up to relayBatch messages, and no more of them once it has relayBytes.
	relayBatch = 1024
	relayBytes = 4 << 20

	relayPoll  = time.Second          // finds what nobody told of: messages that a relay left when it died
	relayPace  = 5 * time.Millisecond // between two questions for the next due time
	relayAgain = time.Second          // until a message is tried again that could not be sent

	// Of the time that a batch may take, the database has a part to itself: what the broker confirmed must be committed.
	relayLimit = 12 * time.Second
	sendLimit  = 8 * time.Second

	relayMinBackoff = 100 * time.Millisecond
	relayMaxBackoff = 3 * time.Second
)

// relay sends the messages of all tenants that wait to the broker when they are due. Any number of relays share the work. A message is
// claimed, sent and deleted in one transaction, so a relay that dies leaves it for the others; it may then be sent twice.
type relay struct {
	service *Service
	log     *zap.Logger
	system  *pg.DB        // apart from the service's, whose connections may all be held by those who wait for the relay
	due     chan struct{} // has a token when there may be messages that are due now
}

// Relay sends the messages that wait to the broker when they are due, until ctx ends; then it finishes the batches in hand,
// within seconds. An error means that the database's URL is not usable.
func (s *Service) Relay(ctx context.Context) error {
	lanes := max(1, min(relayLanes, s.db.MaxConns()/4))
	db, err := pg.Open(ctx, pg.Config{URL: s.url, MaxConns: int32(lanes)})
	if err != nil {
		return err
	}
	defer db.Close()
	r := &relay{service: s, log: s.log, system: db.System(), due: make(chan struct{}, 1)}
	var running sync.WaitGroup
	running.Go(func() { r.watch(ctx) })
	for range lanes {
		running.Go(func() { r.lane(ctx) })
	}
	running.Wait()
	return nil
}

// watch wakes a lane whenever messages may have come due.
func (r *relay) watch(ctx context.Context) {
	for {
		give(r.due)
		asked := time.Now()
		timer := time.NewTimer(r.untilDue(ctx))
		select {
		case <-r.service.heardWaiting:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Stop()
		if early := relayPace - time.Since(asked); early > 0 {
			give(r.due) // This one does not wait.
			if !pause(ctx, early) {
				return
			}
		}
	}
}

// untilDue is how long nothing comes due, as far as the database knows.
func (r *relay) untilDue(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, relayPoll)
	defer cancel()
	wait, err := selectUntilDue(ctx, r.service.system)
	if err != nil {
		return relayPoll
	}
	return min(max(wait, 0), relayPoll)
}

// lane relays one batch after the other. As long as that fails, it waits longer each time.
func (r *relay) lane(ctx context.Context) {
	backoff := relayMinBackoff
	for {
		select {
		case <-r.due:
		case <-ctx.Done():
			return
		}
		err := r.batch(ctx)
		if err == nil {
			backoff = relayMinBackoff
			continue
		}
		delay := backoff/2 + rand.N(backoff/2)
		r.log.Warn("waiting messages cannot be sent, trying again", zap.Duration("retry_in_ms", delay), zap.Error(err))
		if !pause(ctx, delay) {
			return
		}
		backoff = min(2*backoff, relayMaxBackoff)
		give(r.due)
	}
}

// batch claims messages, sends them and commits what became of them. An error means that they wait as before.
func (r *relay) batch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), relayLimit)
	defer cancel()
	return r.system.InTx(ctx, func(tx pgx.Tx) error {
		batch, size, err := claimWaiting(ctx, tx, relayBatch, relayBytes)
		if err != nil || len(batch) == 0 {
			return err
		}
		if len(batch) == relayBatch || size >= relayBytes {
			give(r.due) // There may be more: it is for another lane, meanwhile.
		}
		return r.settle(ctx, tx, batch, r.send(ctx, batch))
	})
}

func (r *relay) send(ctx context.Context, batch []*waiting) []error {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	return r.service.sendBatch(ctx, batch, r.service.declare)
}

// settle puts back what has to be sent again. What was sent, or leads nowhere, is gone with the commit.
func (r *relay) settle(ctx context.Context, tx pgx.Tx, batch []*waiting, outcomes []error) error {
	var back []waiting
	unsent, first := 0, 0
	for i, m := range batch {
		if outcomes[i] == nil {
			continue
		}
		again, err := r.unsettled(auth.AsService(ctx, m.tenant), tx, m, outcomes[i])
		if err != nil {
			return err
		}
		if len(again) > 0 {
			if unsent == 0 {
				first = i
			}
			unsent++
		}
		back = append(back, again...)
	}
	if unsent == len(batch) {
		// A queue that cannot be reached must not hold up the others, but a broker that is away needs no changes here.
		if err := r.service.broker.Ping(ctx); err != nil {
			return err
		}
	}
	if len(back) == 0 {
		return nil
	}
	r.log.Warn("messages not sent, trying again", zap.Int("messages", unsent), zap.Duration("retry_in_ms", relayAgain),
		zap.Inline(batch[first]), zap.Error(outcomes[first]))
	return insertWaiting(ctx, tx, back...)
}

// unsettled gives what is to be sent again of a message that failed, later so that it does not hold up others.
func (r *relay) unsettled(ctx context.Context, tx pgx.Tx, m *waiting, outcome error) ([]waiting, error) {
	again := *m
	again.due, again.dueAt = relayAgain, time.Time{}
	switch {
	case m.to.topic != "" && errors.Is(outcome, broker.ErrFull):
		return r.fanOut(ctx, tx, again)
	case m.to.topic == "" && errors.Is(outcome, broker.ErrNoQueue): // The table knows it, and the broker was told.
	case errs.Is(outcome, errs.NotFound):
		r.log.Warn("message dropped: it leads nowhere any longer", zap.Inline(m), zap.Error(outcome))
		return nil, nil
	case errs.Is(outcome, errs.InvalidArgument):
		r.log.Error("message refused by the broker", zap.Inline(m), zap.Error(outcome))
		return nil, r.bury(ctx, tx, m, outcome)
	}
	return []waiting{again}, nil
}

// fanOut has each queue of a topic wait for itself, since one of them is full: those that are not get the message a second
// time, but not each time that it is tried.
func (r *relay) fanOut(ctx context.Context, tx pgx.Tx, m waiting) ([]waiting, error) {
	bindings, err := selectBindings(ctx, tx, m.to.topic)
	var copies []waiting
	for _, queue := range queuesOf(matching(bindings[m.to.topic], m.to.routingKey)) {
		m.to = ToQueue(queue)
		copies = append(copies, m)
	}
	return copies, err
}

// bury makes a dead letter of a message to a queue that the broker will never take.
func (r *relay) bury(ctx context.Context, tx pgx.Tx, m *waiting, why error) error {
	if m.to.topic != "" {
		return nil // Nobody's.
	}
	now := time.Now()
	if m.firstFailedAt.IsZero() {
		m.firstFailedAt = now
	}
	return insertDeadLetter(ctx, tx, DeadLetter{
		ID: uuid.Must(uuid.NewV7()).String(), Queue: m.to.queue, MessageID: m.id, Reason: errs.Shortened(why.Error(), maxReason), Attempts: m.attempts,
		FirstFailedAt: m.firstFailedAt, LastFailedAt: now, Attributes: m.attributes, Body: m.body, headers: m.headers,
	})
}

// MarshalLogObject tells of a message in the log.
func (w *waiting) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("tenant", w.tenant)
	zap.Dict("message", zap.String("id", w.id), zap.String("queue", w.to.queue.name), zap.String("topic", w.to.topic),
		zap.String("routing_key", w.to.routingKey)).AddTo(line)
	return nil
}

// give puts a token in a channel that has none.
func give(token chan<- struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

// pause waits; it is false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
