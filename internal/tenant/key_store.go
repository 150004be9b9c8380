package tenant

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// keyColumns are the columns that scanKey reads first.
const keyColumns = `k.id::text, k.tenant, k.display_name, k.prefix, k.scopes, k.rate_limit, k.created_at, k.expires_at, k.revoked_at,
	k.last_used_at`

func scanKey(row pgx.Row, more ...any) (k Key, err error) {
	var rate string
	var expires, revoked, used pgtype.Timestamptz
	fields := []any{&k.ID, &k.Tenant, &k.DisplayName, &k.Prefix, &k.Scopes, &rate, &k.CreatedAt, &expires, &revoked, &used}
	if err := row.Scan(append(fields, more...)...); err != nil {
		return Key{}, err
	}
	k.ExpiresAt, k.RevokedAt, k.LastUsedAt = unlessNever(expires), unlessNever(revoked), unlessNever(used)
	k.Rate, err = auth.ParseRate(rate)
	return k, err
}

func scanOneKey(row pgx.Row) (Key, error) { return scanKey(row) }

// unlessNever returns the zero time for infinity and for NULL.
func unlessNever(t pgtype.Timestamptz) time.Time {
	if t.InfinityModifier != pgtype.Finite {
		return time.Time{}
	}
	return t.Time
}

func insertKey(ctx context.Context, db *pg.Tx, k Key, hash auth.KeyHash) (Key, error) {
	expires := pgtype.Timestamptz{Time: k.ExpiresAt, Valid: true}
	if k.ExpiresAt.IsZero() {
		expires.InfinityModifier = pgtype.Infinity
	}
	return scanKey(db.QueryRow(ctx, `
		INSERT INTO api_keys AS k (id, tenant, hash, display_name, prefix, scopes, rate_limit, expires_at)
		VALUES ($1::uuid, $2, $3, $4, $5, $6, $7, $8) RETURNING `+keyColumns,
		k.ID, k.Tenant, hash[:], k.DisplayName, k.Prefix, k.Scopes, k.Rate.String(), expires))
}

func selectKey(ctx context.Context, db *pg.System, id string) (Key, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+keyColumns+` FROM api_keys k WHERE id = $1::uuid`, id), scanOneKey, errNoKey(id))
}

func revokeKey(ctx context.Context, db *pg.Tx, id string) (Key, error) {
	return pg.One(db.QueryRow(ctx, `
		UPDATE api_keys k SET revoked_at = least(revoked_at, now()) WHERE id = $1::uuid RETURNING `+keyColumns, id), scanOneKey, errNoKey(id))
}

// selectKeys returns keys before an id, the latest first, of one tenant, or of all if tenant is empty.
func selectKeys(ctx context.Context, db *pg.System, tenant, before string, limit int) ([]Key, error) {
	rows, err := db.Query(ctx, `SELECT `+keyColumns+` FROM api_keys k
		WHERE ($1 = '' OR tenant = $1) AND k.id < $2::uuid ORDER BY k.id DESC LIMIT $3`, tenant, before, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Key, error) { return scanKey(row) })
}

// found is a key with its tenant.
type found struct {
	key    Key
	tenant Tenant
}

// selectHolders returns keys by their hashes, with their tenants.
func selectHolders(ctx context.Context, db *pg.System, hashes []auth.KeyHash) (map[auth.KeyHash]found, error) {
	wanted := make([][]byte, len(hashes))
	for i := range hashes {
		wanted[i] = hashes[i][:]
	}
	all := make(map[auth.KeyHash]found, len(hashes))
	return all, eachHolder(ctx, db, `k.hash = ANY ($1)`, wanted, func(f found, hash auth.KeyHash) { all[hash] = f })
}

// selectHoldersByID returns keys by their ids, with their tenants.
func selectHoldersByID(ctx context.Context, db *pg.System, ids []string) (map[string]found, error) {
	all := make(map[string]found, len(ids))
	return all, eachHolder(ctx, db, `k.id = ANY ($1::text[]::uuid[])`, ids, func(f found, _ auth.KeyHash) { all[f.key.ID] = f })
}

func eachHolder(ctx context.Context, db *pg.System, where string, wanted any, add func(f found, hash auth.KeyHash)) error {
	rows, err := db.Query(ctx, `SELECT `+keyColumns+`, `+tenantColumns+`, k.hash FROM api_keys k JOIN tenants t ON t.name = k.tenant
		WHERE `+where, wanted)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var f found
		var rate string
		var hash []byte
		if f.key, err = scanKey(rows, append(tenantFields(&f.tenant, &rate), &hash)...); err != nil {
			return err
		}
		if f.tenant.Rate, err = auth.ParseRate(rate); err != nil {
			return err
		}
		add(f, auth.KeyHash(hash))
	}
	return rows.Err()
}

// updateUsed records when keys were used. The commit does not wait for the disk, since losing it in a crash of the server
// would do no harm. Concurrent processes lock the keys in the same order, so they wait for each other and do not
// deadlock.
func updateUsed(ctx context.Context, db *pg.Tx, times map[string]time.Time) error {
	if _, err := db.Exec(ctx, `SET LOCAL synchronous_commit = off`); err != nil {
		return err
	}
	var ids []string
	var at []time.Time
	for id, t := range times {
		ids, at = append(ids, id), append(at, t)
	}
	_, err := db.Exec(ctx, `
		WITH used AS (
			SELECT k.id, u.at FROM api_keys k JOIN unnest($1::text[]::uuid[], $2::timestamptz[]) AS u (id, at) ON k.id = u.id
			ORDER BY k.id FOR NO KEY UPDATE OF k
		)
		UPDATE api_keys k SET last_used_at = greatest(k.last_used_at, used.at) FROM used WHERE k.id = used.id`, ids, at)
	return err
}
