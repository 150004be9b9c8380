package message

import (
	"cmp"
	"context"
	"slices"

	"plinth/internal/pg"
)

// useKeys finds the messages whose idempotency key was used before, in an earlier transaction or by an earlier message of
// the batch, and claims the keys of the others. Other transactions with the same keys wait until this one has ended.
func useKeys(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	firsts := map[idempotencyKey]*outgoing{}
	for _, m := range batch {
		if k := m.scopedKey(); m.err == nil && m.key != "" && firsts[k] == nil {
			firsts[k] = m
		}
	}
	if len(firsts) == 0 {
		return nil
	}
	keys := make([]idempotencyKey, 0, len(firsts))
	for k := range firsts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b idempotencyKey) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.destination, b.destination), cmp.Compare(a.key, b.key))
	})
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = firsts[k].id
	}
	used, err := insertKeys(ctx, tx, keys, ids)
	if err != nil {
		return err
	}
	for _, m := range batch {
		if id := used[m.scopedKey()]; m.err == nil && m.key != "" && id != m.id {
			m.duplicateOf = id
		}
	}
	return nil
}

// scopedKey returns the message's idempotency key, which applies to its queue or topic only.
func (m *outgoing) scopedKey() idempotencyKey {
	if m.to.topic != "" {
		return idempotencyKey{m.tenant, "topic:" + m.to.topic, m.key} // No queue name contains a colon.
	}
	return idempotencyKey{m.tenant, m.to.queue.name, m.key}
}
