package message

import (
	"context"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// TenantPublication is a publication on behalf of a tenant.
type TenantPublication struct {
	Tenant string
	Publication
}

// PublishBatchTx publishes messages of many tenants when tx, a transaction of pg.System, is committed, and none of them
// if it is rolled back. It executes a few statements, however many messages there are. The results are in the order of
// the batch; a message that fails does not affect the others. The error is the database's and makes tx unusable.
func (s *Service) PublishBatchTx(ctx context.Context, tx *pg.Tx, batch []TenantPublication) ([]Result, error) {
	all, held := make([]*outgoing, len(batch)), make([]*outgoing, 0, len(batch))
	for i, p := range batch {
		m, err := newOutgoing(s.apart(auth.AsService(ctx, p.Tenant)), p.Publication)
		if err != nil {
			all[i] = &outgoing{err: err}
			continue
		}
		all[i], held = m, append(held, m)
	}
	if err := s.admitTx(ctx, tx, held); err != nil {
		return nil, err
	}
	if err := s.hold(ctx, tx, held); err != nil {
		return nil, err
	}
	results := make([]Result, len(batch))
	for i, m := range all {
		results[i] = Result{m.receipt(), m.err}
	}
	return results, nil
}

// holdOne is hold for a single message.
func (s *Service) holdOne(ctx context.Context, tx *pg.Tx, m *outgoing) error {
	if err := s.hold(ctx, tx, []*outgoing{m}); err != nil {
		return err
	}
	return m.err
}

// hold puts messages in the waiting table and determines for each whether it is refused, by admit too, or a duplicate. The returned
// error is the database's and means that no message was stored.
func (s *Service) hold(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	if err := s.findDestinations(ctx, tx, batch); err != nil {
		return err
	}
	if err := s.useKeys(ctx, tx, batch); err != nil {
		return err
	}
	for _, m := range batch {
		if m.isNew() {
			m.err = m.refusal
		}
	}
	if err := s.takeWaiting(ctx, tx, batch); err != nil {
		return err
	}
	if err := freeRefused(ctx, tx, batch); err != nil {
		return err
	}
	var rows []envelope
	for _, m := range batch {
		if m.isNew() {
			rows = append(rows, m.envelope)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	if err := insertWaiting(ctx, tx, rows...); err != nil {
		return err
	}
	s.wakeRelay(tx)
	tx.AfterCommit(func() {
		for _, m := range rows {
			if m.to.topic == "" {
				s.rates.of(tenantQueue{m.tenant, m.to.queue}).published.Add(1)
			}
		}
	})
	return nil
}

// isNew reports whether the message was neither refused nor published before.
func (m *outgoing) isNew() bool { return m.err == nil && m.duplicateOf == "" }

// tenantTopic is the topic of one tenant, and tenantDestination a destination.
type (
	tenantTopic       struct{ tenant, topic string }
	tenantDestination struct {
		tenant string
		to     Destination
	}
)

// findDestinations refuses the messages that have no destination. The queues that it finds cannot be deleted until the
// transaction ends.
func (s *Service) findDestinations(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	queues, topics := map[tenantQueue]bool{}, map[tenantDestination]bool{}
	for _, m := range batch {
		if m.to.isOwn() {
			continue
		}
		if m.to.topic == "" {
			queues[tenantQueue{m.tenant, m.to.queue}] = false
		} else {
			topics[tenantDestination{m.tenant, m.to}] = true
		}
	}
	refused, err := s.findQueues(ctx, tx, queues)
	if err != nil {
		return err
	}
	var bindings map[tenantTopic][]bound
	if len(topics) > 0 {
		if bindings, err = selectMatching(ctx, tx, topics); err != nil {
			return err
		}
	}
	for _, m := range batch {
		switch q := (tenantQueue{m.tenant, m.to.queue}); {
		case m.to.topic == "" && refused[q] != nil:
			m.err = refused[q]
		case m.to.topic == "" && !queues[q]:
			m.err = errNoQueue(m.to.queue)
		case m.to.topic != "" && !m.to.isOwn() && len(matching(bindings[tenantTopic{m.tenant, m.to.topic}], m.to.routingKey)) == 0:
			m.err = errNoMatch(m.to)
		}
	}
	return nil
}

// findQueues sets queues[q] for each queue q that exists. With AutoCreate it creates the others, unless their tenant has as many as it may
// have; they are declared on the broker when their first message is sent.
func (s *Service) findQueues(ctx context.Context, tx *pg.Tx, queues map[tenantQueue]bool) (refused map[tenantQueue]error, err error) {
	if len(queues) == 0 {
		return nil, nil
	}
	if err := lockQueues(ctx, tx, queues); err != nil || !s.limits.AutoCreate {
		return nil, err
	}
	refused = map[tenantQueue]error{}
	for q, exists := range queues {
		if exists {
			continue
		}
		_, err := s.insertQueueWithinQuota(auth.AsService(ctx, q.tenant), tx, q.queue, DefaultPolicy)
		if errs.Is(err, errs.ResourceExhausted) {
			refused[q] = err
		} else if err != nil {
			return nil, err
		}
	}
	return refused, lockQueues(ctx, tx, queues)
}
