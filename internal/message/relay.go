package message

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

const (
	// maxRelayLanes is how many batches of a relay are in progress at a time, or fewer if there are few connections: while one
	// waits for the broker, the next one is read.
	maxRelayLanes = 3
	// A batch has at most relayBatch messages, and gets no more once it has relayBytes.
	relayBatch = 1024
	relayBytes = 4 << 20

	// doubtLimit is how long a message in doubt waits for its outcome. The connection to a broker that hangs is lost before.
	doubtLimit = 30 * time.Second

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
	service   *Service
	log       *zap.Logger
	system    *pg.System
	declaring sync.Mutex // is held by the lane that waits for the queues of topics

	mu     sync.Mutex
	cursor backlog          // where the next round begins
	topics map[backlog]bool // that a lane has messages to
}

func (s *Service) newRelay() *pg.Due {
	r := &relay{service: s, log: s.log, system: s.system, topics: map[backlog]bool{}}
	return s.notifier.NewDue(pg.DueConfig{
		What: "waiting messages", Channel: channel, Payload: newWaiting, Log: s.log,
		Lanes: max(1, min(maxRelayLanes, s.system.MaxConns()-1)), Late: waitingLate, Work: r.batch,
	})
}

// Relay sends waiting messages to the broker when they are due, and applies changes of queues to the broker that other
// processes could not finish. When ctx ends, it finishes what it has begun within seconds and returns.
func (s *Service) Relay(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { defer observe.LogPanic(s.log); return s.relay.Run(ctx) })
	group.Go(func() error { defer observe.LogPanic(s.log); return s.intents.Run(ctx) })
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
		due, topics, release := r.reserve(due)
		defer release()
		if len(due) == 0 {
			next = relayBusy
			return nil
		}
		if topics > 0 {
			more() // One of them may take long.
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
		if len(batch) > 0 {
			defer r.service.lanes.add(batch)()
		}
		if batch, err = r.buryLapsed(ctx, tx, batch); err != nil {
			return err
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

// reserve removes the topics that other lanes have messages to, and returns how many are left for this one until it calls release. A topic with
// very many bindings takes long, and must not have all lanes.
func (r *relay) reserve(due []backlog) (left []backlog, topics int, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var mine []backlog
	left = slices.DeleteFunc(due, func(b backlog) bool {
		if b.topic == "" || (Destination{topic: b.topic}).isOwn() {
			return false
		}
		if r.topics[b.key()] {
			return true
		}
		r.topics[b.key()] = true
		mine = append(mine, b.key())
		return false
	})
	return left, len(mine), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, b := range mine {
			delete(r.topics, b)
		}
	}
}

func (r *relay) send(ctx context.Context, batch []*envelope) []error {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	end := r.service.startRelaying(ctx, batch)
	outcomes := r.sendDue(ctx, batch)
	end(outcomes)
	return outcomes
}

// declare is Service.declare on a connection of the relay's class. Those of calls may all wait for messages that the relay has claimed.
func (r *relay) declare(ctx context.Context, queue QueueName) error {
	return r.service.declareBy(ctx, r.system, queue)
}

// settlement is the decision on each message of a batch.
type settlement struct {
	gone    []*envelope // sent, or without a destination
	later   []*envelope // to be sent again
	doubts  []*envelope // sent, without an outcome so far
	unbound []*envelope // to topics without a binding that matches: to be sent again, later each time
	copies  []envelope  // that replace a message in gone
}

// settle deletes the messages that were sent, and delays the others. A backlog of which nothing could be sent is blocked
// for longer each time.
func (r *relay) settle(ctx context.Context, tx *pg.Tx, batch []*envelope, outcomes []error) error {
	if len(batch) == 0 {
		return nil
	}
	if allFailed(outcomes) && !anyInDoubt(outcomes) {
		// A queue that cannot be reached must not hold up the others, but a broker that is away needs no changes here.
		if err := r.service.broker.Ping(ctx); err != nil {
			return err
		}
	}
	if err := r.settleEach(ctx, tx, batch, outcomes); err != nil {
		return err
	}
	return r.backOff(ctx, tx, batch, outcomes)
}

// settleEach settles all messages at once, or, if that fails, each by itself: what is wrong with one must not have the others
// sent again.
func (r *relay) settleEach(ctx context.Context, tx *pg.Tx, batch []*envelope, outcomes []error) error {
	err := tx.InTx(ctx, func(tx *pg.Tx) error { return r.settleAll(ctx, tx, batch, outcomes) })
	if err == nil || len(batch) == 1 && ctx.Err() != nil {
		return err
	}
	for i, m := range batch {
		err := tx.InTx(ctx, func(tx *pg.Tx) error { return r.settleAll(ctx, tx, batch[i:i+1], outcomes[i:i+1]) })
		if err == nil {
			continue
		}
		r.log.Error("message cannot be settled, it is sent again", zap.Inline(m), zap.Error(err))
		err = tx.InTx(ctx, func(tx *pg.Tx) error { return settleWaiting(ctx, tx, settlement{later: batch[i : i+1]}) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *relay) settleAll(ctx context.Context, tx *pg.Tx, batch []*envelope, outcomes []error) error {
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
	for _, m := range s.doubts {
		r.log.Warn("message sent, waiting for its outcome", zap.Inline(m))
		tx.AfterCommit(func() { go r.resolve(m) })
	}
	return settleWaiting(ctx, tx, s)
}

// resolve waits for the outcome of a message in doubt. Until then no relay sends it again, unless this one dies.
func (r *relay) resolve(m *envelope) {
	defer observe.LogPanic(r.log)
	timeout := time.NewTimer(doubtLimit)
	defer timeout.Stop()
	select {
	case outcome := <-m.doubt.Outcome:
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		defer cancel()
		if err := resolveDoubt(ctx, r.system, m, outcome == nil); err != nil {
			r.log.Warn("the outcome of a message cannot be recorded, it is sent again", zap.Inline(m), zap.Error(err))
			return
		}
		r.service.notifier.Notify(channel, newWaiting)
	case <-timeout.C:
	}
}

func anyInDoubt(outcomes []error) bool {
	for _, err := range outcomes {
		var doubt *broker.InDoubt
		if errors.As(err, &doubt) {
			return true
		}
	}
	return false
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
	if errors.As(outcome, &m.doubt) {
		s.doubts = append(s.doubts, m)
		return nil
	}
	switch {
	case outcome == nil:
		s.gone = append(s.gone, m)
	case m.to.topic != "" && (errors.Is(outcome, broker.ErrFull) || errs.Is(outcome, errs.InvalidArgument)):
		copies, err := r.fanOut(ctx, tx, *m)
		if len(copies) == 0 { // The last binding was removed a moment ago.
			s.unbound = append(s.unbound, m)
			return err
		}
		s.gone, s.copies = append(s.gone, m), append(s.copies, copies...)
		return err
	case m.to.topic != "" && errs.Is(outcome, errs.NotFound):
		s.unbound = append(s.unbound, m)
	case m.to.topic == "" && errors.Is(outcome, broker.ErrNoQueue): // The queue is in the table and was declared.
		s.again(m)
	case errs.Is(outcome, errs.NotFound):
		r.log.Warn("message dropped with its queue, which was deleted", zap.Inline(m), zap.Error(outcome))
		s.gone = append(s.gone, m)
	case errs.Is(outcome, errs.InvalidArgument):
		r.log.Error("message refused by the broker", zap.Inline(m), zap.Error(outcome))
		s.gone = append(s.gone, m)
		return r.bury(ctx, tx, m, outcome)
	default:
		s.again(m)
	}
	return nil
}

// again adds a message that is to be sent again. One whose lease is over gets a new row, which has no lease: its receipt must not be
// good again.
func (s *settlement) again(m *envelope) {
	if !m.lapsed {
		s.later = append(s.later, m)
		return
	}
	replacement := *m
	replacement.due = relayAgain
	s.gone, s.copies = append(s.gone, m), append(s.copies, replacement)
}

// fanOut replaces a message to a topic with one waiting message for each of its queues, because one of the queues is
// full, or the broker refuses the message. Queues that have it already get it a second time, but not again with each attempt.
func (r *relay) fanOut(ctx context.Context, tx *pg.Tx, m envelope) ([]envelope, error) {
	m.due, m.dueAt = relayAgain, time.Time{}
	bindings, err := selectMatching(ctx, tx, map[tenantDestination]bool{{m.tenant, m.to}: true})
	var copies []envelope
	for _, queue := range queuesOf(matching(bindings[m.topic()], m.to.routingKey)) {
		m.to = ToQueue(queue)
		copies = append(copies, m)
	}
	return copies, err
}

// bury makes a dead letter of a message that the broker will never accept.
func (r *relay) bury(ctx context.Context, tx *pg.Tx, m *envelope, why error) error {
	now := time.Now()
	if m.firstFailedAt.IsZero() {
		m.firstFailedAt = now
	}
	return insertDeadLetter(ctx, tx, DeadLetter{
		ID: uuid.Must(uuid.NewV7()).String(), Queue: m.to.queue, MessageID: m.id, Reason: errs.Shortened(why.Error(), maxReason), Attempts: m.attempts,
		FirstFailedAt: m.firstFailedAt, LastFailedAt: now, Attributes: m.attributes, Body: m.body, headers: m.headers,
	})
}
