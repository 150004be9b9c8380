package message

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

const (
	// maxRelayLanes is how many batches of a relay are in progress at a time, or fewer if there are few connections: while one
	// waits for the broker, the next one is read.
	maxRelayLanes = 3
	// A batch has at most relayBatch messages, and gets no more once it has relayBytes.
	relayBatch = 1024
	relayBytes = 4 << 20

	relayAgain = time.Second           // before a message that could not be sent is tried again
	relayPace  = 5 * time.Millisecond  // before the next batch, if all due messages were sent
	relayBusy  = 50 * time.Millisecond // before the next batch, if other relays have all due messages

	// sendLimit leaves a part of the time of a batch to the database, since what the broker confirmed must be committed.
	relayLimit = 12 * time.Second
	sendLimit  = 8 * time.Second
)

// relay sends the waiting messages of all tenants to the broker when they are due. Any number of relays share the work. A
// message is claimed, sent and deleted in one transaction, so if a relay dies, the others send its messages; a message
// may then be sent twice.
type relay struct {
	service *Service
	log     *zap.Logger
	system  *pg.System

	mu     sync.Mutex
	cursor backlog // where the next round begins
}

func (s *Service) newRelay() *pg.Due {
	r := &relay{service: s, log: s.log, system: s.system}
	return s.notifier.NewDue(pg.DueConfig{
		What: "waiting messages", Channel: channel, Payload: newWaiting, Log: s.log,
		Lanes: max(1, min(maxRelayLanes, s.system.MaxConns()-1)), Late: waitingLate, Work: r.batch,
	})
}

// Relay sends waiting messages to the broker when they are due, and applies changes of queues to the broker that other
// processes could not finish. When ctx ends, it finishes what it has begun within seconds and returns.
func (s *Service) Relay(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.relay.Run(ctx) })
	group.Go(func() error { return s.intents.Run(ctx) })
	return group.Wait()
}

// batch claims messages, sends them and commits the outcomes. After an error the messages wait as before.
func (r *relay) batch(ctx context.Context, more func()) (next time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), relayLimit)
	defer cancel()
	err = r.system.InTx(ctx, func(tx *pg.Tx) error {
		var due []backlog
		if due, next, err = r.round(ctx, tx); err != nil || len(due) == 0 {
			return err
		}
		batch, full, err := claimWaiting(ctx, tx, due, relayBytes)
		if err != nil {
			return err
		}
		switch {
		case full:
			next = 0
			more() // Another lane can start meanwhile.
		case len(batch) > 0:
			next = relayPace
		default:
			next = relayBusy
		}
		return r.settle(ctx, tx, batch, r.send(ctx, batch))
	})
	return next, err
}

// round returns the backlogs of the next batch, each with its share. next is how long nothing becomes due if there are
// none.
func (r *relay) round(ctx context.Context, tx *pg.Tx) (due []backlog, next time.Duration, err error) {
	r.mu.Lock()
	from := r.cursor
	r.mu.Unlock()
	seen, err := selectBacklogs(ctx, tx, from, maxBacklogs)
	if err != nil {
		return nil, 0, err
	}
	due, next, after := chooseBacklogs(seen, from != backlog{})
	r.mu.Lock()
	r.cursor = after
	r.mu.Unlock()
	return due, next, nil
}

func (r *relay) send(ctx context.Context, batch []*envelope) []error {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	return r.service.sendBatch(ctx, batch, r.service.declare)
}

// settlement is the decision on each message of a batch.
type settlement struct {
	gone   []*envelope // sent, or without a destination
	later  []*envelope // to be sent again
	copies []envelope  // that replace a message in gone
}

// settle deletes the messages that were sent, and delays the others. A backlog of which nothing could be sent is blocked
// for longer each time.
func (r *relay) settle(ctx context.Context, tx *pg.Tx, batch []*envelope, outcomes []error) error {
	if len(batch) == 0 {
		return nil
	}
	if allFailed(outcomes) {
		// A queue that cannot be reached must not hold up the others, but a broker that is away needs no changes here.
		if err := r.service.broker.Ping(ctx); err != nil {
			return err
		}
	}
	var s settlement
	for i, m := range batch {
		if err := r.settleOne(auth.AsService(ctx, m.tenant), tx, &s, m, outcomes[i]); err != nil {
			return err
		}
	}
	if len(s.later)+len(s.copies) > 0 {
		first := firstFailed(outcomes)
		r.log.Warn("messages not sent, trying again", zap.Int("messages", len(s.later)+len(s.copies)),
			zap.Duration("retry_in_ms", relayAgain), zap.Inline(batch[first]), zap.Error(outcomes[first]))
	}
	if err := settleWaiting(ctx, tx, s); err != nil {
		return err
	}
	return r.backOff(ctx, tx, batch, outcomes)
}

func allFailed(outcomes []error) bool {
	for _, err := range outcomes {
		if err == nil {
			return false
		}
	}
	return true
}

func firstFailed(outcomes []error) int {
	for i, err := range outcomes {
		if err != nil {
			return i
		}
	}
	return 0
}

// settleOne adds a message to the settlement according to its outcome.
func (r *relay) settleOne(ctx context.Context, tx *pg.Tx, s *settlement, m *envelope, outcome error) error {
	switch {
	case outcome == nil:
		s.gone = append(s.gone, m)
	case m.to.topic != "" && errors.Is(outcome, broker.ErrFull):
		copies, err := r.fanOut(ctx, tx, *m)
		s.gone, s.copies = append(s.gone, m), append(s.copies, copies...)
		return err
	case m.to.topic == "" && errors.Is(outcome, broker.ErrNoQueue): // The queue is in the table and was declared.
		s.later = append(s.later, m)
	case errs.Is(outcome, errs.NotFound):
		r.log.Warn("message dropped: it leads nowhere any longer", zap.Inline(m), zap.Error(outcome))
		s.gone = append(s.gone, m)
	case errs.Is(outcome, errs.InvalidArgument):
		r.log.Error("message refused by the broker", zap.Inline(m), zap.Error(outcome))
		s.gone = append(s.gone, m)
		return r.bury(ctx, tx, m, outcome)
	default:
		s.later = append(s.later, m)
	}
	return nil
}

// fanOut replaces a message to a topic with one waiting message for each of its queues, because one of the queues is
// full. The other queues get the message a second time, but not again with each attempt.
func (r *relay) fanOut(ctx context.Context, tx *pg.Tx, m envelope) ([]envelope, error) {
	m.due, m.dueAt = relayAgain, time.Time{}
	bindings, err := selectBindings(ctx, tx, tenantTopic{m.tenant, m.to.topic})
	var copies []envelope
	for _, queue := range queuesOf(matching(bindings[tenantTopic{m.tenant, m.to.topic}], m.to.routingKey)) {
		m.to = ToQueue(queue)
		copies = append(copies, m)
	}
	return copies, err
}

// bury makes a dead letter of a message that the broker will never accept.
func (r *relay) bury(ctx context.Context, tx *pg.Tx, m *envelope, why error) error {
	if m.to.topic != "" {
		return nil // A topic has no dead letters.
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
