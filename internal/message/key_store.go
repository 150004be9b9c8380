package message

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// idempotencyKey is a publisher's key for one destination.
type idempotencyKey struct{ tenant, destination, key string }

// insertKeys returns for each key the id of the message that was published with it: ids[i] if the key was free or had
// expired, otherwise the id of the first message. Keys must be distinct and sorted in the same way by all callers, so
// that transactions which wait for each other's keys do not deadlock.
func insertKeys(ctx context.Context, db *pg.Tx, keys []idempotencyKey, ids []string) (map[idempotencyKey]string, error) {
	tenants, destinations, names := make([]string, len(keys)), make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		tenants[i], destinations[i], names[i] = k.tenant, k.destination, k.key
	}
	_, err := db.Exec(ctx, `
		INSERT INTO message_keys AS k (tenant, destination, key, id)
		SELECT tenant, destination, key, id::uuid
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS m (tenant, destination, key, id, n) ORDER BY n
		ON CONFLICT (tenant, destination, key) DO UPDATE SET id = excluded.id, created_at = excluded.created_at
			WHERE k.created_at <= now() - interval '24 hours'`, tenants, destinations, names, ids)
	if err != nil {
		return nil, err
	}
	// The statement above has waited for all other transactions with one of the keys, so the result of this one is final.
	rows, err := db.Query(ctx, `
		SELECT k.tenant, k.destination, k.key, k.id::text
		FROM message_keys k JOIN unnest($1::text[], $2::text[], $3::text[]) AS m (tenant, destination, key)
		ON k.tenant = m.tenant AND k.destination = m.destination AND k.key = m.key`, tenants, destinations, names)
	if err != nil {
		return nil, err
	}
	first := make(map[idempotencyKey]string, len(keys))
	var k idempotencyKey
	var id string
	_, err = pgx.ForEachRow(rows, []any{&k.tenant, &k.destination, &k.key, &id}, func() error {
		first[k] = id
		return nil
	})
	return first, err
}
