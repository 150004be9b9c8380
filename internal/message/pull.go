package message

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

const (
	// pullGather is how long a poll that has a message waits for more.
	pullGather = 10 * time.Millisecond
	// pullNow is how long a poll waits that does not want to wait, if the queue has messages.
	pullNow = time.Second
	// nackChunk is how many messages are moved in one transaction, since their bodies are read.
	nackChunk = 16
	// relaySoon is how long the relay may not know of new leases. It is less than the shortest lease.
	relaySoon = 500 * time.Millisecond
)

// PullRequest says what Pull takes.
type PullRequest struct {
	Queue       QueueName
	Max         int           // messages, at least 1
	Wait        time.Duration // for the first message; 0 means not to wait
	AckDeadline time.Duration // at least a second
	// Finishing ends when the process stops: then Pull waits no longer.
	Finishing <-chan struct{}
}

// Pulled is a message that was pulled, with the receipt of its lease.
type Pulled struct {
	Message
	Receipt string
}

// Pull takes messages of a queue of the tenant that ctx acts for: up to Max and 1 MiB, or one larger message, and what arrives
// within a few milliseconds after the first one. It returns none if none arrives in time, or the queue is paused. Each message is leased:
// unless it is settled by its receipt before its ack deadline, in any process, its attempt has failed and it is delivered again. A message
// that was taken for a caller who has gone is given back, and no attempt is counted.
//
// When Pull returns, a message is a row of message_waiting that is due at the end of its lease, and no longer on the broker.
//
// Errors: NotFound; ResourceExhausted if the tenant has too many messages that were pulled and not settled; Unavailable if the broker
// or the database is away.
func (s *Service) Pull(ctx context.Context, r PullRequest) ([]Pulled, error) {
	queue := tenantQueue{auth.TenantOf(ctx), r.Queue}
	if err := s.mayPull(ctx, r.Queue); err != nil {
		return nil, err
	}
	if r.Wait == 0 {
		ready, err := s.readyNow(ctx, queue)
		if err != nil || !ready {
			return nil, err
		}
		r.Wait = pullNow
	}
	for over := time.Now().Add(r.Wait); ; r.Wait = time.Until(over) {
		p, c := s.pullers.join(queue, r.Max)
		c.wait(ctx, r)
		batch, err := p.leave(c)
		if len(batch) == 0 {
			return nil, cmp.Or(ctx.Err(), err)
		}
		if paused, _ := s.pauses.of(queue); paused || ctx.Err() != nil {
			p.giveBack(batch)
			return nil, ctx.Err()
		}
		pulled, err := s.leaseAll(ctx, p, r, batch)
		if ctx.Err() != nil && len(pulled) > 0 {
			s.unlease(ctx, r.Queue, pulled)
			return nil, ctx.Err()
		}
		if err != nil || len(pulled) > 0 {
			return pulled, err
		}
		// All of them were copies of messages that have a row, or were delivered too often.
	}
}

// mayPull returns an error if the queue does not exist, or the tenant has too many messages that were pulled.
func (s *Service) mayPull(ctx context.Context, queue QueueName) error {
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		if _, err := selectQueue(ctx, tx, queue); err != nil {
			return err
		}
		return s.quotas.pulled.Take(ctx, tx, 1)
	})
}

// readyNow reports whether a queue has messages that may be delivered.
func (s *Service) readyNow(ctx context.Context, queue tenantQueue) (bool, error) {
	if paused, _ := s.pauses.of(queue); paused {
		return false, nil
	}
	var n int64
	err := onDeclared(ctx, queue.queue, s.declare, func() (err error) {
		n, err = s.broker.Ready(ctx, queue.queue.onBroker(queue.tenant))
		return err
	})
	return n > 0, err
}

// wait blocks until a poll has all that it takes, or what has arrived until it is over.
func (c *poll) wait(ctx context.Context, r PullRequest) {
	over := time.NewTimer(r.Wait)
	defer over.Stop()
	select {
	case <-c.full:
	case <-c.first:
		over.Reset(pullGather)
		select {
		case <-c.full:
		case <-over.C:
		case <-ctx.Done():
		}
	case <-over.C:
	case <-ctx.Done():
	case <-r.Finishing:
	}
}

// leaseAll leases what a poll has taken, and removes it from the broker. If it cannot be leased, it goes back to the queue.
func (s *Service) leaseAll(ctx context.Context, p *puller, r PullRequest, batch []taken) ([]Pulled, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	lease := uuid.New()
	messages, err := s.storePulled(ctx, r.Queue, lease, r.AckDeadline, batch)
	if err != nil {
		p.settle(batch, taken.nack)
		return nil, err
	}
	// Nobody has a receipt yet, so whatever happens from here on, the message cannot be settled and come again from the broker.
	p.settle(batch, taken.ack)
	s.rates.of(p.tenantQueue).delivered.Add(int64(len(messages)))
	pulled := make([]Pulled, len(messages))
	for i, m := range messages {
		pulled[i] = Pulled{m, pullReceipt{uuid.MustParse(m.ID), lease}.String()}
	}
	return pulled, nil
}

// unlease gives back messages that were leased for a caller who has gone meanwhile, and so has no receipts. No attempt is counted.
func (s *Service) unlease(ctx context.Context, queue QueueName, pulled []Pulled) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	receipts := make([]string, len(pulled))
	for i, m := range pulled {
		receipts[i] = m.Receipt
	}
	results, err := settlePulled(receipts, nackChunk, func(some []pullReceipt) (map[pullReceipt]bool, error) {
		good, _, err := s.failPulled(ctx, queue, some, func(m Message) *failure {
			return &failure{message: m, reason: m.reason, postponed: true, delay: new(time.Duration)}
		})
		return good, err
	})
	if err = cmp.Or(err, errors.Join(results...)); err != nil {
		s.log.Warn("messages that nobody has come again when their leases are over", zap.Inline(tenantQueue{auth.TenantOf(ctx), queue}), zap.Error(err))
	}
}

// failPulled moves messages by their receipts, and returns what it moved and which receipts were good.
func (s *Service) failPulled(
	ctx context.Context, queue QueueName, receipts []pullReceipt, failed func(Message) *failure,
) (good map[pullReceipt]bool, failures []*failure, err error) {
	good = map[pullReceipt]bool{}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		messages, err := takeLeased(ctx, tx, queue, receipts)
		if err != nil {
			return err
		}
		for r, m := range messages {
			good[r] = true
			failures = append(failures, failed(m))
		}
		return s.failTx(ctx, tx, queue, failures...)
	})
	return good, failures, err
}

// storePulled makes rows of messages that were taken from the broker, and returns those that were no rows before. A message that was
// delivered too often without being settled becomes a dead letter. Errors: NotFound.
func (s *Service) storePulled(ctx context.Context, queue QueueName, lease uuid.UUID, due time.Duration, batch []taken) (stored []Message, err error) {
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		policy, now, err := lockPolicy(ctx, tx, queue, s.oneLog)
		if err != nil {
			return err
		}
		messages, spent := sortPulled(batch, policy)
		for _, f := range spent {
			if err := insertDeadLetter(ctx, tx, f.deadLetter(queue, now)); err != nil {
				return err
			}
		}
		if len(messages) == 0 {
			return nil
		}
		mine, err := insertPulled(ctx, tx, queue, lease, due, messages)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if mine[m.ID] {
				stored = append(stored, m)
			}
		}
		tx.AfterCommit(func() { s.pullers.wakeRelay(due) })
		return nil
	})
	return stored, err
}

// sortPulled returns the messages of a batch in the order of their ids, each once, without those that were delivered too often.
func sortPulled(batch []taken, policy Policy) (messages []Message, spent []*failure) {
	for _, t := range batch {
		m := fromBroker(t.Delivery)
		if uuid.Validate(m.ID) != nil { // It did not come from this service, and the table cannot store its id.
			m.ID = uuid.Must(uuid.NewV7()).String()
		}
		if t.Attempt > 1 && m.Attempt > policy.MaxAttempts {
			f := cutShort(m)
			f.permanent = true
			spent = append(spent, f)
			continue
		}
		messages = append(messages, m)
	}
	slices.SortStableFunc(messages, func(a, b Message) int { return cmp.Compare(a.ID, b.ID) })
	return slices.CompactFunc(messages, func(a, b Message) bool { return a.ID == b.ID }), spent
}

// wakeRelay has the relay learn of rows that are due after due: soon, and together with others, if that is soon enough.
func (ps *pullers) wakeRelay(due time.Duration) {
	wake := func() { ps.service.notifier.Notify(channel, newWaiting) }
	if due < 2*relaySoon {
		wake()
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.waking {
		return
	}
	ps.waking = true
	time.AfterFunc(relaySoon, func() {
		ps.mu.Lock()
		ps.waking = false
		ps.mu.Unlock()
		wake()
	})
}

// Ack removes messages that were pulled from a queue, by their receipts. It returns an error for each receipt, in their order:
// InvalidArgument for what cannot be a receipt; FailedPrecondition if the lease is over or was settled, and for receipts of other
// queues.
func (s *Service) Ack(ctx context.Context, queue QueueName, receipts []string) ([]error, error) {
	return settlePulled(receipts, len(receipts), func(some []pullReceipt) (map[pullReceipt]bool, error) {
		good, err := deleteLeased(ctx, s.db, queue, some)
		s.rates.of(tenantQueue{auth.TenantOf(ctx), queue}).acknowledged.Add(int64(len(good)))
		return good, err
	})
}

// Extend has leases last for ackDeadline from now. Results are those of Ack.
func (s *Service) Extend(ctx context.Context, queue QueueName, receipts []string, ackDeadline time.Duration) ([]error, error) {
	return settlePulled(receipts, len(receipts), func(some []pullReceipt) (map[pullReceipt]bool, error) {
		good, err := updateLeased(ctx, s.db, queue, some, ackDeadline)
		if len(good) > 0 {
			s.pullers.wakeRelay(ackDeadline)
		}
		return good, err
	})
}

// Nack records that attempts failed: the messages come again after delay, or the queue's back-off if that is nil, or become dead
// letters. Results are those of Ack.
func (s *Service) Nack(ctx context.Context, queue QueueName, receipts []string, delay *time.Duration, reason string) ([]error, error) {
	return settlePulled(receipts, nackChunk, func(some []pullReceipt) (map[pullReceipt]bool, error) {
		good, failures, err := s.failPulled(ctx, queue, some, func(m Message) *failure {
			return &failure{message: m, delay: delay, reason: reason}
		})
		if err != nil {
			return nil, err
		}
		for _, f := range failures {
			s.log.Info("message given back", zap.Inline(&line{queue: tenantQueue{auth.TenantOf(ctx), queue}, message: f.message, failure: f}))
		}
		return good, nil
	})
}

// settlePulled calls settle for up to chunk receipts at a time, and returns the result of each. settle returns which receipts were good.
// A receipt that is given twice is good once.
func settlePulled(receipts []string, chunk int, settle func([]pullReceipt) (map[pullReceipt]bool, error)) ([]error, error) {
	results := make([]error, len(receipts))
	places := make(map[pullReceipt]int, len(receipts))
	var valid []pullReceipt
	for i, text := range receipts {
		r, err := parsePullReceipt(text)
		if err != nil {
			results[i] = err
			continue
		}
		results[i] = errSpent()
		if _, twice := places[r]; !twice {
			places[r], valid = i, append(valid, r)
		}
	}
	for some := range slices.Chunk(valid, chunk) {
		good, err := settle(some)
		if err != nil && len(valid) <= chunk {
			return nil, err
		}
		if err != nil { // Others were settled.
			for _, r := range some {
				results[places[r]] = err
			}
		}
		for r := range good {
			results[places[r]] = nil
		}
	}
	return results, nil
}
