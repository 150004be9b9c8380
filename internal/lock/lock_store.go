package lock

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// All times are those of clock_timestamp(), which goes on while a statement waits for a row.

// micros is the clock in microseconds, from which tokens are made.
const micros = `(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

// isHeld is the condition of locks that somebody has.
const isHeld = `l.lease_id IS NOT NULL AND l.expires_at > clock_timestamp()`

// ofLive are the waiters of a lock that count, for a tenant and name as in $1 and $2.
const ofLive = `lock_waiters w JOIN lock_processes p ON p.tenant = w.tenant AND p.process = w.process
	WHERE w.tenant = $1 AND w.name = $2 AND w.expires_at > clock_timestamp() AND p.alive_until > clock_timestamp()`

// next is a query for the lease id of the first waiter, likewise. Together with what frees a lock it does not see a waiter that came
// meanwhile: that one looks again by itself.
const next = `SELECT w.lease_id FROM ` + ofLive + ` ORDER BY w.seq LIMIT 1`

// taking is one statement that
//   - takes the lock where nobody has it and no live waiter is earlier. A row in the snapshot that is held is left alone, so that
//     those who are refused neither write nor wait; otherwise the row's own lock decides. The lease keeps its token where it is the
//     caller's already;
//   - queues the caller where it does not, or keeps its place, if it wants to wait;
//   - removes the caller from the waiters where it does.
//
// A waiter that is lost in a crash of the server costs a place, so only a lease waits for the disk.
const taking = `
	WITH held AS MATERIALIZED (
		SELECT l.lease_id, l.owner, l.ttl, l.expires_at - clock_timestamp() AS remaining
		FROM locks l WHERE l.tenant = $1 AND l.name = $2 AND ` + isHeld + `
	), own AS MATERIALIZED (
		SELECT seq FROM lock_waiters WHERE tenant = $1 AND name = $2 AND lease_id = $3
	), known AS MATERIALIZED (
		SELECT FROM locks WHERE tenant = $1 AND name = $2
	), taken AS (
		INSERT INTO locks AS l (tenant, name, token, lease_id, holder, owner, ttl, acquired_at, expires_at)
		SELECT $1, $2, greatest(` + micros + `, (SELECT token + 1 FROM lock_floors WHERE tenant = $1)),
			$3, $4, $5, $6, clock_timestamp(), clock_timestamp() + $6
		WHERE CASE
			WHEN EXISTS (SELECT FROM held) THEN EXISTS (SELECT FROM held WHERE lease_id = $3)
			ELSE ($9 OR EXISTS (SELECT FROM known)) AND NOT EXISTS (
				SELECT FROM ` + ofLive + ` AND w.lease_id <> $3 AND w.seq < coalesce((SELECT seq FROM own), 9223372036854775807))
			END
		ON CONFLICT (tenant, name) DO UPDATE SET
			token = CASE WHEN l.lease_id = $3 AND l.expires_at > clock_timestamp() THEN l.token ELSE greatest(l.token + 1, ` + micros + `) END,
			acquired_at = CASE WHEN l.lease_id = $3 AND l.expires_at > clock_timestamp() THEN l.acquired_at ELSE clock_timestamp() END,
			lease_id = $3, holder = $4, owner = $5, ttl = $6, expires_at = clock_timestamp() + $6
		WHERE l.lease_id IS NULL OR l.lease_id = $3 OR l.expires_at <= clock_timestamp()
		RETURNING l.token, l.expires_at
	), queued AS (
		INSERT INTO lock_waiters (tenant, name, lease_id, process, expires_at)
		SELECT $1, $2, $3, $7, clock_timestamp() + $8
		WHERE $8 > interval '0' AND NOT EXISTS (SELECT FROM taken) AND ($9 OR EXISTS (SELECT FROM known)) AND (
			EXISTS (SELECT FROM own) OR $10 = 0 OR $10 > (SELECT count(*) FROM (SELECT FROM lock_waiters WHERE tenant = $1 LIMIT $10) AS counted))
		ON CONFLICT (tenant, name, lease_id) DO UPDATE SET process = excluded.process, expires_at = excluded.expires_at
		RETURNING 1
	), alive AS (
		INSERT INTO lock_processes AS p (tenant, process, alive_until) SELECT $1, $7, clock_timestamp() + $11
		WHERE EXISTS (SELECT FROM queued) AND NOT EXISTS (
			SELECT FROM lock_processes WHERE tenant = $1 AND process = $7 AND alive_until > clock_timestamp())
		ON CONFLICT (tenant, process) DO UPDATE SET alive_until = greatest(p.alive_until, excluded.alive_until)
	), gone AS (
		DELETE FROM lock_waiters WHERE tenant = $1 AND name = $2 AND lease_id = $3 AND EXISTS (SELECT FROM taken)
	)
	SELECT coalesce(t.token, 0), coalesce(t.expires_at, clock_timestamp()), t.token IS NOT NULL AND NOT EXISTS (SELECT FROM known),
		EXISTS (SELECT FROM queued), NOT ($9 OR EXISTS (SELECT FROM known)),
		coalesce(h.owner, ''), coalesce(h.ttl, '0'), coalesce(h.remaining, '0'),
		CASE WHEN t.token IS NULL THEN set_config('synchronous_commit', 'off', true) END
	FROM (SELECT 1) AS one LEFT JOIN taken t ON true LEFT JOIN held h ON true`

// takeOptions are what of taking a lock is not the client's to say.
type takeOptions struct {
	process uuid.UUID
	wait    time.Duration
	room    bool  // for a lock that has no row
	waiters int64 // most of the tenant; 0 is no limit
}

// taken is the answer of taking.
type taken struct {
	token     int64 // 0 where the lock was not taken
	expiresAt time.Time
	made      bool // there was no row
	queued    bool
	full      bool // there is no row, and no room for one
	held      held
}

func takeLock(ctx context.Context, db pg.Querier, r Request, o takeOptions) (t taken, err error) {
	var ignored *string
	err = db.QueryRow(ctx, taking, auth.TenantOf(ctx), r.Name.name, r.LeaseID, auth.From(ctx).ID, r.Owner, r.TTL,
		o.process, o.wait, o.room, o.waiters, lapse,
	).Scan(&t.token, &t.expiresAt, &t.made, &t.queued, &t.full, &t.held.owner, &t.held.ttl, &t.held.left, &ignored)
	return t, err
}

// shortenLease has a lease whose end the clock has moved away from last for its TTL, from now.
func shortenLease(ctx context.Context, db pg.Querier, name Name) error {
	_, err := db.Exec(ctx, `UPDATE locks SET expires_at = clock_timestamp() + ttl
		WHERE tenant = $1 AND name = $2 AND lease_id IS NOT NULL AND expires_at > clock_timestamp() + ttl`, auth.TenantOf(ctx), name.name)
	return err
}

// releaseLock ends a lease, if it has not ended, and returns the lease id of who is next, if anybody is. A release that is lost in a
// crash of the server ends with the lease's time, so it does not wait for the disk; whatever is committed after it does.
func releaseLock(ctx context.Context, db pg.Querier, name Name, id uuid.UUID) (released bool, following uuid.UUID, err error) {
	var first *uuid.UUID
	var ignored string
	err = db.QueryRow(ctx, `
		WITH freed AS (
			UPDATE locks l SET lease_id = NULL, holder = '', owner = '', expires_at = clock_timestamp()
			WHERE l.tenant = $1 AND l.name = $2 AND l.lease_id = $3 AND l.expires_at > clock_timestamp() RETURNING 1
		)
		SELECT EXISTS (SELECT FROM freed), (`+next+`), set_config('synchronous_commit', 'off', true)`,
		auth.TenantOf(ctx), name.name, id).Scan(&released, &first, &ignored)
	if first != nil {
		following = *first
	}
	return released, following, err
}

// selectNext returns the lease id of the first waiter, zero if there is none.
func selectNext(ctx context.Context, db pg.Querier, name Name) (first uuid.UUID, err error) {
	return pg.One(db.QueryRow(ctx, next, auth.TenantOf(ctx), name.name), func(row pgx.Row) (id uuid.UUID, err error) {
		err = row.Scan(&id)
		return id, err
	}, nil)
}

// lockColumns are what scanLock reads.
const lockColumns = `l.name, l.holder, l.owner, l.token, l.acquired_at, l.expires_at, (
	SELECT count(*) FROM lock_waiters w JOIN lock_processes p ON p.tenant = w.tenant AND p.process = w.process
	WHERE w.tenant = l.tenant AND w.name = l.name AND w.expires_at > clock_timestamp() AND p.alive_until > clock_timestamp())`

func scanLock(row pgx.Row) (l Lock, err error) {
	err = row.Scan(&l.Name.name, &l.Holder, &l.Owner, &l.Token, &l.AcquiredAt, &l.ExpiresAt, &l.Waiters)
	return l, err
}

func selectLock(ctx context.Context, db pg.Querier, name Name) (Lock, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+lockColumns+` FROM locks l WHERE l.tenant = $1 AND l.name = $2 AND `+isHeld,
		auth.TenantOf(ctx), name.name), scanLock, errNotHeld(name))
}

func selectLocks(ctx context.Context, db pg.Querier, after string, limit int) ([]Lock, error) {
	rows, err := db.Query(ctx, `SELECT `+lockColumns+` FROM locks l WHERE l.tenant = $1 AND l.name > $2 AND `+isHeld+` ORDER BY l.name LIMIT $3`,
		auth.TenantOf(ctx), after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Lock, error) { return scanLock(row) })
}

// countLocks counts the rows of the tenant's locks up to a limit.
func countLocks(ctx context.Context, db pg.Querier, limit int64) (n int64, err error) {
	err = db.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM locks WHERE tenant = $1 LIMIT $2) AS counted`, auth.TenantOf(ctx), limit).Scan(&n)
	return n, err
}

// forcedColumns are what scanForced reads.
const forcedColumns = `id::text, name, token, holder, owner, principal, reason, released_at`

func scanForced(row pgx.Row) (f ForcedRelease, err error) {
	err = row.Scan(&f.ID, &f.Name.name, &f.Token, &f.Holder, &f.Owner, &f.Principal, &f.Reason, &f.ReleasedAt)
	return f, err
}

// releaseByForce ends whatever lease the lock has, and records it as f, which it returns completed.
func releaseByForce(ctx context.Context, db *pg.Tx, f ForcedRelease) (ForcedRelease, error) {
	return pg.One(db.QueryRow(ctx, `
		WITH found AS (
			SELECT l.tenant, l.name, l.token, l.holder, l.owner FROM locks l WHERE l.tenant = $1 AND l.name = $2 AND `+isHeld+` FOR UPDATE
		), freed AS (
			UPDATE locks l SET lease_id = NULL, holder = '', owner = '', expires_at = clock_timestamp()
			FROM found f WHERE l.tenant = f.tenant AND l.name = f.name
		)
		INSERT INTO lock_forced_releases (tenant, id, name, token, holder, owner, principal, reason, released_at)
		SELECT tenant, $3, name, token, holder, owner, $4, $5, clock_timestamp() FROM found RETURNING `+forcedColumns,
		auth.TenantOf(ctx), f.Name.name, f.ID, f.Principal, f.Reason), scanForced, errNotHeld(f.Name))
}

// selectForced returns the records before an id, the latest first.
func selectForced(ctx context.Context, db pg.Querier, before uuid.UUID, limit int) ([]ForcedRelease, error) {
	rows, err := db.Query(ctx, `SELECT `+forcedColumns+` FROM lock_forced_releases WHERE tenant = $1 AND id < $2 ORDER BY lock_forced_releases.id DESC LIMIT $3`,
		auth.TenantOf(ctx), before, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ForcedRelease, error) { return scanForced(row) })
}
