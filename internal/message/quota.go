package message

import (
	"context"
	"maps"
	"slices"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/tenant"
)

// quotas are the quotas of this domain.
type quotas struct {
	queues, waiting, waitingBytes, pulled, keys, items, letters, queued, bytes, perSecond *tenant.Quota
}

// waitingFresh is for how long the number of waiting messages of a tenant is cached: reading it for each message would
// cost a statement.
const waitingFresh = time.Second

func newQuotas(l Limits) quotas {
	return quotas{
		queues:  tenant.NewQuota(tenant.QuotaConfig{Name: "queues", What: "queues", Most: l.Queues}),
		waiting: tenant.NewQuota(tenant.QuotaConfig{Name: "waiting_messages", What: "waiting messages", Most: l.Waiting, Fresh: waitingFresh}),
		waitingBytes: tenant.NewQuota(tenant.QuotaConfig{
			Name: "waiting_bytes", What: "bytes of waiting messages", Most: l.WaitBytes, Fresh: waitingFresh, Passing: true,
		}),
		pulled: tenant.NewQuota(tenant.QuotaConfig{Name: "pulled_messages", What: "messages that were pulled and not settled", Most: l.Pulled, Fresh: waitingFresh}),
		keys: tenant.NewQuota(tenant.QuotaConfig{
			Name: "idempotency_keys", What: "idempotency keys", Most: l.Keys, Fresh: waitingFresh, Passing: true,
			Relief: "each is kept for 24 hours; publish without a key, or wait",
		}),
		items: tenant.NewQuota(tenant.QuotaConfig{
			Name: "operation_items", What: "dead letters in redrives, purges and dry runs", Most: l.Items, Fresh: waitingFresh, Passing: true,
			Relief: "choose fewer, use the tokens of dry runs or wait until they expire, an hour after they were made",
		}),
		letters: tenant.NewQuota(tenant.QuotaConfig{
			Name: "dead_letters", What: "dead letters", Most: l.Letters, Fresh: waitingFresh, Passing: true,
			Relief: "nothing is published until some are redriven or purged (the quota is dead_letters)",
		}),
		queued: tenant.NewQuota(tenant.QuotaConfig{
			Name: "queue_messages", What: "messages in queues", Most: l.Queued, Passing: true,
			Relief: "consume or purge some (the quota is queue_messages)",
		}),
		bytes: tenant.NewQuota(tenant.QuotaConfig{
			Name: "queue_bytes", What: "bytes in queues", Most: l.Bytes, Passing: true,
			Relief: "consume or purge some (the quota is queue_bytes)",
		}),
		perSecond: tenant.NewQuota(tenant.QuotaConfig{Name: "messages_per_second", What: "messages a second", Most: l.PerSecond, Uncounted: true}),
	}
}

// Quotas returns the quotas of this domain, for tenant.Service.Register.
func (s *Service) Quotas() []*tenant.Quota {
	q := s.quotas
	return []*tenant.Quota{q.queues, q.waiting, q.waitingBytes, q.pulled, q.keys, q.items, q.letters, q.queued, q.bytes, q.perSecond}
}

// admit determines which messages the quotas refuse: those of tenants that have too many dead letters, and those that are to be in a
// queue at once while the tenant has too much in its queues. What fails later is never refused, nor what waits for its next attempt. For
// those that are sent now, sent must be called. It may wait for the database, so the caller must not hold a connection.
func (s *Service) admit(ctx context.Context, batch ...*outgoing) {
	dead, full := map[string]error{}, map[string]error{}
	for _, m := range batch {
		if !m.to.isOwn() {
			full[m.tenant] = nil
		}
	}
	tenants := slices.Collect(maps.Keys(full))
	s.letters.Know(ctx, tenants...)
	s.queued.Know(ctx, tenants...)
	for _, tenant := range tenants {
		dead[tenant] = s.letters.Take(auth.AsService(ctx, tenant), 0)
	}
	for _, m := range batch {
		if m.to.isOwn() {
			continue
		}
		m.refusal = dead[m.tenant]
		if m.refusal == nil && m.atOnce() && full[m.tenant] == nil { // An error of one holds for the rest: it may have waited.
			full[m.tenant] = s.queued.Take(auth.AsService(ctx, m.tenant), m.room()...)
		}
		if m.refusal == nil && m.atOnce() {
			m.refusal = full[m.tenant]
		}
		if m.refusal == nil && m.atOnce() && !m.now() { // The relay takes it again when it sends it.
			s.sent(ctx, &m.envelope)
		}
	}
}

// sent tells that messages which were taken from the quotas have been sent, or not.
func (s *Service) sent(ctx context.Context, batch ...*envelope) {
	for _, m := range batch {
		s.queued.Done(auth.AsService(ctx, m.tenant), m.room()...)
	}
}

// admitTx is admit for messages that a transaction publishes. They wait for room in their queues, as what is delayed does.
func (s *Service) admitTx(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	dead := map[string]error{}
	for _, m := range batch {
		if m.origin != FromClient || m.to.isOwn() {
			continue
		}
		err, known := dead[m.tenant]
		if !known {
			err = s.quotas.letters.Room(auth.AsService(ctx, m.tenant), tx)
			if err != nil && !errs.Is(err, errs.ResourceExhausted) {
				return err
			}
			dead[m.tenant] = err
		}
		m.refusal = err
	}
	return nil
}

// room returns what a message takes in its queue. One to a topic counts once until its copies are counted.
func (e *envelope) room() []int64 { return []int64{1, int64(len(e.body))} }

// makeRoom returns the error of each message of a relay's batch that has to wait, since its tenant has too much in its queues, and those
// that were taken from the quotas, for sent. What failed an attempt was in a queue before, and goes back.
func (s *Service) makeRoom(ctx context.Context, batch []*envelope) (full []error, taken []*envelope) {
	full = make([]error, len(batch))
	known := map[string]error{}
	for _, m := range batch {
		known[m.tenant] = nil
	}
	s.queued.Know(ctx, slices.Collect(maps.Keys(known))...)
	for i, m := range batch {
		if m.attempts > 0 || m.to.isOwn() {
			continue
		}
		if known[m.tenant] == nil {
			known[m.tenant] = s.queued.Take(auth.AsService(ctx, m.tenant), m.room()...)
		}
		if full[i] = known[m.tenant]; full[i] == nil {
			taken = append(taken, m)
		}
	}
	return full, taken
}

// takeWaiting takes the messages from their tenants' quotas of waiting messages, and refuses those of tenants whose quota
// is used up, but no EndEvent.
func (s *Service) takeWaiting(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	counts, bytes := map[string]int64{}, map[string]int64{}
	for _, m := range batch {
		if m.isNew() && !m.to.isOwn() {
			counts[m.tenant]++
			bytes[m.tenant] += int64(len(m.body))
		}
	}
	refused := map[string]error{}
	for _, tenant := range slices.Sorted(maps.Keys(counts)) { // All transactions take in the same order, so they do not deadlock.
		ctx := auth.AsService(ctx, tenant)
		err := s.quotas.waiting.Take(ctx, tx, counts[tenant])
		if err == nil {
			err = s.quotas.waitingBytes.Take(ctx, tx, bytes[tenant])
		}
		switch {
		case errs.Is(err, errs.ResourceExhausted):
			refused[tenant] = err
		case err != nil:
			return err
		}
	}
	for _, m := range batch {
		if m.isNew() && !m.to.isOwn() && m.origin != EndEvent {
			m.err = refused[m.tenant]
		}
	}
	return nil
}
