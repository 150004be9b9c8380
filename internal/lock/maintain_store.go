package lock

import (
	"context"

	"plinth/internal/pg"
)

// deleteIdle deletes locks that nobody has had for a while, and raises the floors of their tenants, so that no token of a lock
// that is taken again goes back, however the clock was set since.
func deleteIdle(ctx context.Context, db *pg.System, limit int) (n int, err error) {
	err = db.QueryRow(ctx, `
		WITH gone AS (
			DELETE FROM locks WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM locks WHERE expires_at < clock_timestamp() - $1::interval
					AND token < `+micros+` - extract(epoch FROM $1::interval)::bigint * 1000000
				LIMIT $2 FOR UPDATE SKIP LOCKED))
			RETURNING tenant, token
		), raised AS (
			INSERT INTO lock_floors AS f (tenant, token) SELECT tenant, max(token) FROM gone GROUP BY tenant ORDER BY tenant
			ON CONFLICT (tenant) DO UPDATE SET token = greatest(f.token, excluded.token)
		)
		SELECT count(*) FROM gone`, idleFor, limit).Scan(&n)
	return n, err
}

func deleteLapsedWaiters(ctx context.Context, db *pg.System, limit int) (int, error) {
	tag, err := db.Exec(ctx, `DELETE FROM lock_waiters WHERE ctid = ANY (ARRAY(
		SELECT w.ctid FROM lock_waiters w LEFT JOIN lock_processes p ON p.tenant = w.tenant AND p.process = w.process
		WHERE w.expires_at < clock_timestamp() OR p.alive_until IS NULL OR p.alive_until < clock_timestamp() - $1::interval LIMIT $2))`,
		idleFor, limit)
	return int(tag.RowsAffected()), err
}

func deleteLapsedProcesses(ctx context.Context, db *pg.System, limit int) (int, error) {
	tag, err := db.Exec(ctx, `DELETE FROM lock_processes WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM lock_processes WHERE alive_until < clock_timestamp() - $1::interval LIMIT $2 FOR UPDATE SKIP LOCKED))`, idleFor, limit)
	return int(tag.RowsAffected()), err
}

func deleteOldForced(ctx context.Context, db *pg.System, limit int) (int, error) {
	tag, err := db.Exec(ctx, `DELETE FROM lock_forced_releases WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM lock_forced_releases WHERE released_at < clock_timestamp() - $1::interval LIMIT $2))`, forcedFor, limit)
	return int(tag.RowsAffected()), err
}

// countHeld returns how many locks somebody has, among as many as limit.
func countHeld(ctx context.Context, db *pg.System, limit int) (n int, err error) {
	err = db.QueryRow(ctx, `SELECT count(*) FROM (SELECT lease_id, expires_at FROM locks LIMIT $1) AS l WHERE `+isHeld, limit).Scan(&n)
	return n, err
}
