package lock

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// state is what became of a renewal.
type state int

const (
	lost    state = iota // the lease has ended
	renewed              // it lasts for its TTL from now
	busy                 // a transaction guards it, or takes it over: neither is known yet
)

// outcome is the answer to a renewal.
type outcome struct {
	state     state
	token     int64
	expiresAt time.Time
}

// renewLeases renews leases that have not ended, and returns an outcome for each. It waits for nobody: what is locked is busy.
func renewLeases(ctx context.Context, db pg.Querier, asked []renewal) ([]outcome, error) {
	tenants, names := make([]string, len(asked)), make([]string, len(asked))
	ids, ttls := make([]uuid.UUID, len(asked)), make([]time.Duration, len(asked))
	for i, a := range asked {
		tenants[i], names[i], ids[i], ttls[i] = a.tenant, a.name.name, a.id, a.ttl
	}
	rows, err := db.Query(ctx, `
		WITH asked AS MATERIALIZED (
			SELECT tenant, name, lease_id, ttl, n
			FROM unnest($1::text[], $2::text[], $3::uuid[], $4::interval[]) WITH ORDINALITY AS a (tenant, name, lease_id, ttl, n)
		), valid AS MATERIALIZED (
			SELECT l.tenant, l.name FROM asked a JOIN locks l ON l.tenant = a.tenant AND l.name = a.name AND l.lease_id = a.lease_id
			WHERE l.expires_at > clock_timestamp() FOR NO KEY UPDATE OF l SKIP LOCKED
		), renewed AS (
			UPDATE locks l SET ttl = a.ttl, expires_at = clock_timestamp() + a.ttl
			FROM valid v JOIN asked a ON a.tenant = v.tenant AND a.name = v.name
			WHERE l.tenant = v.tenant AND l.name = v.name AND l.lease_id = a.lease_id
			RETURNING l.tenant, l.name, l.lease_id, l.token, l.expires_at
		)
		SELECT CASE WHEN r.token IS NOT NULL THEN 1 WHEN l.token IS NOT NULL THEN 2 ELSE 0 END,
			coalesce(r.token, 0), coalesce(r.expires_at, clock_timestamp())
		FROM asked a
		LEFT JOIN renewed r ON r.tenant = a.tenant AND r.name = a.name AND r.lease_id = a.lease_id
		LEFT JOIN locks l ON l.tenant = a.tenant AND l.name = a.name AND l.lease_id = a.lease_id AND l.expires_at > clock_timestamp()
		ORDER BY a.n`, tenants, names, ids, ttls)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (o outcome, err error) {
		err = row.Scan(&o.state, &o.token, &o.expiresAt)
		return o, err
	})
}

// guardLease reports whether a lease is valid, and keeps it from being taken over until the transaction ends.
func guardLease(ctx context.Context, db *pg.Tx, tenant string, name Name, id uuid.UUID) (valid bool, err error) {
	err = db.QueryRow(ctx, `SELECT true FROM locks
		WHERE tenant = $1 AND name = $2 AND lease_id = $3 AND expires_at > clock_timestamp() FOR SHARE`, tenant, name.name, id).Scan(&valid)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return valid, err
}
