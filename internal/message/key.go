package message

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// useKeys finds the messages whose idempotency key was used before, in an earlier transaction or by an earlier message of
// the batch, and claims the keys of the others. A key that was used for another message is refused. Other transactions
// with the same keys wait until this one has ended. What is new is taken from the quotas of the tenants.
func (s *Service) useKeys(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	firsts := map[idempotencyKey]*outgoing{}
	for _, m := range batch {
		if k := m.tenantKey(); m.err == nil && m.key != "" && firsts[k] == nil {
			firsts[k] = m
		}
	}
	if len(firsts) == 0 {
		return nil
	}
	uses := make([]keyUse, 0, len(firsts))
	for k, m := range firsts {
		uses = append(uses, keyUse{k, m.id, m.to.asText(), m.digest()})
	}
	slices.SortFunc(uses, func(a, b keyUse) int { return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.key, b.key)) })
	counts := map[string]int64{}
	for _, u := range uses {
		counts[u.tenant] = 0
	}
	for tenant := range counts {
		if err := s.quotas.keys.Prepare(auth.AsService(ctx, tenant), tx); err != nil {
			return err
		}
	}
	used, err := insertKeys(ctx, tx, uses)
	if err != nil {
		return err
	}
	for _, m := range batch {
		first := used[m.tenantKey()]
		switch {
		case m.err != nil || m.key == "":
		case first.id == m.id:
			m.claimed = true
			counts[m.tenant]++
		case first.isOf(m):
			m.duplicateOf = first.id
		default:
			m.err = errKeyReused(first.id)
		}
	}
	for tenant, n := range counts {
		err := s.quotas.keys.Take(auth.AsService(ctx, tenant), tx, n)
		if err != nil && !errs.Is(err, errs.ResourceExhausted) {
			return err
		}
		for _, m := range batch {
			if err != nil && m.claimed && m.tenant == tenant {
				m.err = err
			}
		}
	}
	return nil
}

// freeRefused frees the keys of messages that were refused after they had claimed them, and refuses those that would have been the
// same message again.
func freeRefused(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	refused := map[string]error{}
	for _, m := range batch {
		if m.claimed && m.err != nil {
			refused[m.id] = m.err
		}
	}
	if len(refused) == 0 {
		return nil
	}
	var tenants, ids []string
	for _, m := range batch {
		if why := refused[m.duplicateOf]; why != nil {
			m.duplicateOf, m.err = "", why
		}
		if refused[m.id] != nil {
			tenants, ids = append(tenants, m.tenant), append(ids, m.id)
		}
	}
	return deleteKeys(ctx, tx, tenants, ids)
}

func errKeyReused(id string) error {
	return errs.New(errs.FailedPrecondition, "idempotency_key: it was used for another message, %s, with another payload, other attributes "+
		"or another destination; use a key of its own", id).Because("IDEMPOTENCY_KEY_REUSED")
}

// isOf reports whether a key was used for the very message m, or for one that is published again as m.
func (u keyUse) isOf(m *outgoing) bool {
	if u.digest == nil { // The release before did not store what a key was used for.
		return u.destination == m.to.asText()
	}
	return bytes.Equal(u.digest, m.digest())
}

func (m *outgoing) tenantKey() idempotencyKey { return idempotencyKey{m.tenant, m.key} }

// asText returns the queue, or the topic with "topic:" before it; no queue name contains a colon.
func (d Destination) asText() string {
	if d.topic != "" {
		return "topic:" + d.topic
	}
	return d.queue.name
}

// digest returns a hash of all that an idempotency key stands for: destination, payload and attributes.
func (m *outgoing) digest() []byte {
	hash := sha256.New()
	add := func(part []byte) {
		hash.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part)))) // Parts cannot be mistaken for others.
		hash.Write(part)
	}
	add([]byte(m.to.asText()))
	add([]byte(m.to.routingKey))
	add(m.body)
	for _, key := range slices.Sorted(maps.Keys(m.attributes)) {
		add([]byte(key))
		add([]byte(m.attributes[key]))
	}
	return hash.Sum(nil)
}
