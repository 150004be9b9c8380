package message

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// idempotencyKey is a publisher's key, which applies to everything that its tenant publishes.
type idempotencyKey struct{ tenant, key string }

// keyUse records what a key was used for.
type keyUse struct {
	idempotencyKey
	id          string // of the message
	destination string
	digest      []byte // nil if it is not known
}

// insertKeys returns for each key what it stands for: the given use if the key was free or had expired, otherwise its first
// use. Keys must be distinct and sorted in the same way by all callers, so that transactions which wait for each other's
// keys do not deadlock.
func insertKeys(ctx context.Context, db *pg.Tx, uses []keyUse) (map[idempotencyKey]keyUse, error) {
	n := len(uses)
	tenants, names, destinations, ids, digests := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, u := range uses {
		tenants[i], names[i], destinations[i], ids[i], digests[i] = u.tenant, u.key, u.destination, u.id, u.digest
	}
	_, err := db.Exec(ctx, `
		INSERT INTO message_keys AS k (tenant, destination, key, id, digest)
		SELECT tenant, destination, key, id::uuid, digest
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[]) WITH ORDINALITY
			AS m (tenant, destination, key, id, digest, n) ORDER BY n
		ON CONFLICT (tenant, key) DO UPDATE SET destination = excluded.destination, id = excluded.id, digest = excluded.digest,
			created_at = excluded.created_at
			WHERE k.created_at <= now() - interval '24 hours'`, tenants, destinations, names, ids, digests)
	if err != nil {
		return nil, err
	}
	// The statement above has waited for all other transactions with one of the keys, so the result of this one is final.
	rows, err := db.Query(ctx, `
		SELECT k.tenant, k.key, k.id::text, k.destination, k.digest
		FROM message_keys k JOIN unnest($1::text[], $2::text[]) AS m (tenant, key) ON k.tenant = m.tenant AND k.key = m.key`,
		tenants, names)
	if err != nil {
		return nil, err
	}
	first := make(map[idempotencyKey]keyUse, n)
	var u keyUse
	_, err = pgx.ForEachRow(rows, []any{&u.tenant, &u.key, &u.id, &u.destination, &u.digest}, func() error {
		first[u.idempotencyKey] = u
		return nil
	})
	return first, err
}

// deleteKeys deletes the keys that stand for messages, each with its tenant.
func deleteKeys(ctx context.Context, tx *pg.Tx, tenants, ids []string) error {
	_, err := tx.Exec(ctx, `DELETE FROM message_keys k USING unnest($1::text[], $2::text[]) AS m (tenant, id)
		WHERE k.tenant = m.tenant AND k.id = m.id::uuid`, tenants, ids)
	return err
}

// freeKeys forgets the keys that messages of a queue were published with until then.
func freeKeys(ctx context.Context, db pg.Querier, queue QueueName, until time.Time) error {
	_, err := db.Exec(ctx, `DELETE FROM message_keys WHERE tenant = $1 AND destination = $2 AND created_at <= $3`,
		auth.TenantOf(ctx), queue.name, until)
	return err
}
