package file

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// dueFile is a file that a worker has claimed.
type dueFile struct {
	File
	writableUntil time.Time // bytes may arrive at its object until then; zero if none can
	trace         traced    // of what left it to do, where that is known
}

// claimDue takes over files that are due, of all tenants, for the duration of a lease. Here and below, the server uses the indexes of what
// is due only where it is told that this is less than infinity.
func claimDue(ctx context.Context, db *pg.System, limit int, lease time.Duration) ([]dueFile, error) {
	rows, err := db.Query(ctx, `
		UPDATE files SET due_at = clock_timestamp() + $2::interval
		WHERE (tenant, id) IN (SELECT tenant, id FROM files WHERE due_at < 'infinity' AND due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING `+fileColumns+`, CASE WHEN writable_until > now() THEN writable_until END,
			coalesce(trace_parent, ''), coalesce(trace_state, '')`, limit, lease)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d dueFile, err error) {
		var until *time.Time
		d.File, err = scanFile(withMore{row, []any{&until, &d.trace.parent, &d.trace.state}})
		if until != nil {
			d.writableUntil = *until
		}
		return d, err
	})
}

// withMore scans more columns after those of a row's own.
type withMore struct {
	pgx.Row
	more []any
}

func (r withMore) Scan(dest ...any) error { return r.Row.Scan(append(dest, r.more...)...) }

// filesLate is for how long the earliest file has been due. It is negative if that is not due yet, or there is none.
const filesLate = `SELECT coalesce(now() - min(due_at), '-1 hour') FROM files WHERE due_at < 'infinity'`

func selectFilesLate(ctx context.Context, db *pg.System) (late time.Duration, err error) {
	err = db.QueryRow(ctx, filesLate).Scan(&late)
	return late, err
}

// postpone sets when a worker is to come back to a file; the zero time is never.
func postpone(ctx context.Context, db pg.Querier, id string, at time.Time) error {
	_, err := db.Exec(ctx, `UPDATE files SET due_at = $3 WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id, expiry(at))
	return err
}

func deleteFile(ctx context.Context, db pg.Querier, id string) error {
	_, err := db.Exec(ctx, `DELETE FROM files WHERE tenant = $1 AND id = $2::uuid AND state IN ('deleting', 'failed')`, auth.TenantOf(ctx), id)
	return err
}

// selectKnown returns those of the ids that files have, of all tenants.
func selectKnown(ctx context.Context, db *pg.System, tenants, ids []string) (known map[string]bool, err error) {
	rows, err := db.Query(ctx, `SELECT f.tenant || '/' || f.id FROM unnest($1::text[], $2::uuid[]) AS k (tenant, id) JOIN files f USING (tenant, id)`,
		tenants, ids)
	if err != nil {
		return nil, err
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	known = make(map[string]bool, len(keys))
	for _, key := range keys {
		known[key] = true
	}
	return known, err
}

// storageSince returns since when this database lives as it does now: it begins anew when it was restored, to another server
// (its system identifier differs) or to an earlier time (its timeline does).
func storageSince(ctx context.Context, db *pg.System) (since time.Time, err error) {
	err = db.InTx(ctx, func(tx *pg.Tx) error {
		var identity string
		if err := tx.QueryRow(ctx, `SELECT system_identifier || '/' || timeline_id FROM pg_control_system(), pg_control_checkpoint()`).Scan(&identity); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM file_storage WHERE identity <> $1`, identity); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO file_storage (identity, since) SELECT $1, now() WHERE NOT EXISTS (SELECT FROM file_storage)`, identity); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT since FROM file_storage`).Scan(&since)
	})
	return since, err
}
