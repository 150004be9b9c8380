package lock

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// turn is a waiter that is the first one of a lock, and how long the lease of it lasts.
type turn struct {
	place
	left time.Duration
}

// updateAlive says for all tenants at once that a process is alive, and returns those of its waiters that are the first ones of
// the locks.
func updateAlive(ctx context.Context, db *pg.System, process uuid.UUID, tenants, names []string) ([]turn, error) {
	rows, err := db.Query(ctx, `
		WITH alive AS (
			INSERT INTO lock_processes (tenant, process, alive_until)
			SELECT DISTINCT tenant, $1::uuid, clock_timestamp() + $4::interval FROM unnest($2::text[]) AS t (tenant)
			ON CONFLICT (tenant, process) DO UPDATE SET alive_until = excluded.alive_until
		)
		SELECT q.tenant, q.name, first.lease_id, coalesce((
			SELECT l.expires_at - clock_timestamp() FROM locks l WHERE l.tenant = q.tenant AND l.name = q.name AND `+isHeld+`), '0')
		FROM unnest($2::text[], $3::text[]) AS q (tenant, name) CROSS JOIN LATERAL (
			SELECT w.lease_id, w.process FROM lock_waiters w
			LEFT JOIN lock_processes p ON p.tenant = w.tenant AND p.process = w.process
			WHERE w.tenant = q.tenant AND w.name = q.name AND w.expires_at > clock_timestamp()
				AND (w.process = $1 OR p.alive_until > clock_timestamp())
			ORDER BY w.seq LIMIT 1) AS first
		WHERE first.process = $1`, process, tenants, names, lapse)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t turn, err error) {
		err = row.Scan(&t.tenant, &t.name.name, &t.lease, &t.left)
		return t, err
	})
}

// deleteWaiter removes a waiter that is of a process still, and returns the lease id of who is next if nobody has the lock.
func deleteWaiter(ctx context.Context, db *pg.System, p place, process uuid.UUID) (following uuid.UUID, err error) {
	return pg.One(db.QueryRow(ctx, `
		WITH gone AS (
			DELETE FROM lock_waiters WHERE tenant = $1 AND name = $2 AND lease_id = $3 AND process = $4
		)
		SELECT w.lease_id FROM `+ofLive+` AND w.lease_id <> $3
			AND NOT EXISTS (SELECT FROM locks l WHERE l.tenant = $1 AND l.name = $2 AND `+isHeld+`)
		ORDER BY w.seq LIMIT 1`, p.tenant, p.name.name, p.lease, process),
		func(row pgx.Row) (id uuid.UUID, err error) {
			err = row.Scan(&id)
			return id, err
		}, nil)
}
