package message

import (
	"context"
	"errors"
	"slices"
	"time"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/share"
)

// Of large batches, those of all tenants together have at most maxInBatches messages in progress, and a tenant about three eighths of what
// the others leave: to prepare them takes a processor, for which the small ones would wait.
const (
	smallBatch   = 100
	maxOfBatch   = 1000 // that one counts as
	maxInBatches = 8 << 10
	batchWait    = 30 * time.Second
	batchWaiters = 1000 // of a tenant
)

func newBatches() *share.Pool {
	return share.New(share.Config{Capacity: func() int64 { return maxInBatches }, Times: 1, Waiters: batchWaiters})
}

// Result is the outcome of publishing one message of a batch.
type Result struct {
	Receipt
	Err error
}

// PublishBatch publishes many messages independently: a message that fails does not affect the others. The results are in
// the order of the batch; their errors are those of Publish.
func (s *Service) PublishBatch(ctx context.Context, batch []Publication) []Result {
	results := make([]Result, len(batch))
	if err := s.limitRate(ctx, len(batch)); err != nil {
		for i := range results {
			results[i].Err = err
		}
		return results
	}
	if len(batch) > smallBatch {
		tenant, n := auth.TenantOf(ctx), int64(len(batch))
		if err := s.batches.Acquire(ctx, tenant, min(n, maxOfBatch), batchWait); err != nil {
			for i := range results {
				results[i].Err = errs.Wrap(err, errs.Unavailable, "too many messages of the tenant are being published; try again")
			}
			return results
		}
		defer s.batches.Release(tenant, min(n, maxOfBatch))
	}
	all := make([]*outgoing, len(batch))
	var now, later []*outgoing
	for i, p := range batch {
		m, err := newOutgoing(ctx, p)
		switch {
		case err != nil:
			m = &outgoing{err: err}
		case m.now():
			now = append(now, m)
		default:
			later = append(later, m)
		}
		all[i] = m
	}
	s.sendAll(ctx, now)
	s.holdAll(ctx, later)
	for i, m := range all {
		results[i] = Result{m.receipt(), m.err}
	}
	return results
}

func (s *Service) sendAll(ctx context.Context, batch []*outgoing) {
	s.admit(ctx, batch...)
	batch = slices.DeleteFunc(batch, func(m *outgoing) bool {
		m.err = m.refusal
		return m.err != nil
	})
	messages := make([]*envelope, len(batch))
	for i, m := range batch {
		messages[i] = &m.envelope
	}
	for i, err := range s.sendBatch(ctx, s.db, messages, ofCalls, s.declarer()) {
		batch[i].err = messages[i].to.explain(err)
		if m := messages[i]; err == nil && m.to.topic == "" {
			s.rates.of(tenantQueue{m.tenant, m.to.queue}).published.Add(1)
		}
	}
	s.sent(ctx, messages...)
}

// holdAll puts messages in the waiting table, in one transaction.
func (s *Service) holdAll(ctx context.Context, batch []*outgoing) {
	if len(batch) == 0 {
		return
	}
	s.admit(ctx, batch...)
	err := s.db.InTx(ctx, func(tx *pg.Tx) error { return s.hold(ctx, tx, batch) })
	for _, m := range batch {
		if err != nil && m.err == nil {
			m.err = err
		}
	}
}

// sendBatch publishes messages, of one tenant or more, to the broker concurrently, and returns the error of each. For a
// queue that the broker does not know it calls declare and then sends the messages to that queue once more. db tells why the broker
// refuses messages. What goes to topics whose queues are not declared goes last, so that no other message waits for them.
func (s *Service) sendBatch(ctx context.Context, db pg.Querier, batch []*envelope, wait patience, declare func(context.Context, QueueName) error) []error {
	outcomes := make([]error, len(batch))
	generation := s.broker.Generation()
	undeclared := s.undeclared(ctx, generation, batch)
	isLast := func(i int) bool { _, is := undeclared[batch[i].topic()]; return is }
	s.sendSome(ctx, batch, outcomes, func(i int) bool { return !isLast(i) })
	if len(undeclared) > 0 {
		s.declareTopics(ctx, generation, undeclared, wait)
		for i, m := range batch {
			if isLast(i) {
				outcomes[i] = undeclared[m.topic()]
			}
		}
		s.sendSome(ctx, batch, outcomes, func(i int) bool { return isLast(i) && outcomes[i] == nil })
	}
	s.declareQueues(ctx, batch, outcomes, declare)
	s.explainRefusals(ctx, db, batch, outcomes)
	late := s.broker.Generation() != generation
	for i, m := range batch {
		if late && m.to.topic != "" && (outcomes[i] == nil || errors.Is(outcomes[i], broker.ErrNoQueue)) {
			outcomes[i] = errNotAll(m.to)
		}
	}
	return outcomes
}

// declareQueues declares the queues that the broker did not know, and sends the messages to them again.
func (s *Service) declareQueues(
	ctx context.Context, batch []*envelope, outcomes []error, declare func(context.Context, QueueName) error,
) {
	declared := map[tenantQueue]error{}
	for i, m := range batch {
		if m.to.topic != "" || !errors.Is(outcomes[i], broker.ErrNoQueue) {
			continue
		}
		queue := tenantQueue{m.tenant, m.to.queue}
		err, done := declared[queue]
		if !done {
			err = declare(auth.AsService(ctx, m.tenant), m.to.queue)
			declared[queue] = err
		}
		if err != nil {
			outcomes[i] = err
		}
	}
	if len(declared) > 0 {
		s.sendSome(ctx, batch, outcomes, func(i int) bool {
			return batch[i].to.topic == "" && errors.Is(outcomes[i], broker.ErrNoQueue)
		})
	}
}

// sendSome publishes the chosen messages of a batch and records their outcomes.
func (s *Service) sendSome(ctx context.Context, batch []*envelope, outcomes []error, chosen func(int) bool) {
	publications, places := make([]broker.Publication, 0, len(batch)), make([]int, 0, len(batch))
	for i, m := range batch {
		if chosen(i) {
			publications, places = append(publications, m.publication()), append(places, i)
		}
	}
	if len(places) == 0 {
		return
	}
	for n, err := range s.broker.PublishBatch(ctx, publications) {
		outcomes[places[n]] = err
	}
}
