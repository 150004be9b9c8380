package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

func errNoBackfill(id string) error {
	return errs.New(errs.NotFound, "id: there is no backfill %s of that schedule", id)
}

// selectVersion returns a schedule with its definition of a version. Errors: FailedPrecondition for one that is not kept.
func selectVersion(ctx context.Context, db pg.Querier, s Schedule, version int64) (Schedule, error) {
	if version == s.Version {
		return s, nil
	}
	var definition []byte
	err := db.QueryRow(ctx, `SELECT definition FROM schedule_changes WHERE tenant = $1 AND schedule_id = $2::uuid AND version = $3 AND definition IS NOT NULL`,
		auth.TenantOf(ctx), s.id, version).Scan(&definition)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, errs.New(errs.InvalidArgument, "token: it is not that of a dry run of this schedule")
	}
	if err != nil {
		return s, err
	}
	s.Version, s.Definition = version, Definition{}
	return s, json.Unmarshal(definition, &s.Definition)
}

// insertBackfill inserts a backfill, and counts it in its schedule. created is false if there is one of its id.
func insertBackfill(ctx context.Context, tx *pg.Tx, b Backfill) (created bool, err error) {
	tag, err := tx.Exec(ctx, `
		WITH made AS (
			INSERT INTO schedule_backfills (tenant, id, schedule_id, version, start_at, end_at, overlap, max_concurrent, runs, principal, created_at)
			VALUES ($1, $2::uuid, $3::uuid, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING RETURNING schedule_id)
		UPDATE schedules s SET backfills = backfills + 1 FROM made WHERE s.tenant = $1 AND s.id = made.schedule_id`,
		auth.TenantOf(ctx), b.ID, b.scheduleID, b.Version, b.Start, b.End, b.Overlap, b.MaxConcurrent, b.Runs, b.By, b.CreatedAt)
	return tag.RowsAffected() > 0, err
}

// selectTurns returns the backfills of a schedule that have not ended, the oldest first, with how their runs are.
func selectTurns(ctx context.Context, tx *pg.Tx, tenant, scheduleID string) ([]Backfill, error) {
	rows, err := tx.Query(ctx, `
		SELECT b.id::text, b.overlap, b.max_concurrent, a.own, a.others, coalesce((SELECT q.action FROM schedule_runs q
			WHERE q.tenant = b.tenant AND q.backfill_id = b.id AND q.queued ORDER BY q.n LIMIT 1), '')
		FROM schedule_backfills b CROSS JOIN LATERAL (
			SELECT count(*) FILTER (WHERE r.backfill_id = b.id) AS own, count(*) FILTER (WHERE r.backfill_id IS DISTINCT FROM b.id) AS others
			FROM schedule_runs r WHERE r.tenant = b.tenant AND r.schedule_id = b.schedule_id AND r.state IN ('claimed', 'running') AND NOT r.queued) AS a
		WHERE b.tenant = $1 AND b.schedule_id = $2::uuid AND b.ended_at IS NULL ORDER BY b.created_at, b.id`, tenant, scheduleID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b Backfill, err error) {
		b.scheduleID = scheduleID
		return b, row.Scan(&b.ID, &b.Overlap, &b.MaxConcurrent, &b.Active, &b.others, &b.action)
	})
}

// startQueued lets the first runs of a backfill that are queued start, up to n, and returns how many there were.
func startQueued(ctx context.Context, tx *pg.Tx, tenant string, b *Backfill, n int) (started int, err error) {
	tag, err := tx.Exec(ctx, `
		UPDATE schedule_runs r SET queued = false, next_at = clock_timestamp() FROM (
			SELECT id FROM schedule_runs WHERE tenant = $1 AND backfill_id = $2::uuid AND queued ORDER BY n LIMIT $3) AS q
		WHERE r.tenant = $1 AND r.id = q.id`, tenant, b.ID, n)
	return int(tag.RowsAffected()), err
}

// endQueued ends the runs of a backfill that are queued, but for the first ones, and returns them.
func endQueued(ctx context.Context, tx *pg.Tx, tenant string, s *Schedule, id string, state State, reason string, but int, now time.Time) ([]*Run, error) {
	rows, err := tx.Query(ctx, `
		UPDATE schedule_runs r SET queued = false, state = $3, skip_reason = $4, ended_at = $6 FROM (
			SELECT id FROM schedule_runs WHERE tenant = $1 AND backfill_id = $2::uuid AND queued ORDER BY n OFFSET $5) AS q
		WHERE r.tenant = $1 AND r.id = q.id RETURNING `+runColumns, tenant, id, state, reason, but, now)
	return collectRuns(rows, err, s)
}

// collectRuns returns the runs of a schedule that a statement returned.
func collectRuns(rows pgx.Rows, err error, s *Schedule) ([]*Run, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Run, error) {
		r, err := scanRun(row)
		r.schedule, r.Schedule = s, s.Name
		return &r, err
	})
}

func endBackfill(ctx context.Context, tx *pg.Tx, tenant string, b *Backfill) error {
	_, err := tx.Exec(ctx, `
		WITH ended AS (
			UPDATE schedule_backfills SET ended_at = clock_timestamp() WHERE tenant = $1 AND id = $2::uuid AND ended_at IS NULL RETURNING schedule_id)
		UPDATE schedules s SET backfills = backfills - 1 FROM ended WHERE s.tenant = $1 AND s.id = ended.schedule_id`, tenant, b.ID)
	return err
}

func markBackfillCancelled(ctx context.Context, tx *pg.Tx, id string) error {
	_, err := tx.Exec(ctx, `UPDATE schedule_backfills SET cancelled_by = $3 WHERE tenant = $1 AND id = $2::uuid`,
		auth.TenantOf(ctx), id, auth.From(ctx).ID)
	return err
}

func selectBackfill(ctx context.Context, db pg.Querier, name Name, id string) (Backfill, error) {
	return pg.One(db.QueryRow(ctx, `
		SELECT b.id::text, b.version, b.start_at, b.end_at, b.overlap, b.max_concurrent, b.runs, b.principal, b.created_at, b.cancelled_by, b.ended_at,
			(SELECT count(*) FROM schedule_runs r WHERE r.tenant = b.tenant AND r.backfill_id = b.id AND r.queued),
			(SELECT count(*) FROM schedule_runs r WHERE r.tenant = b.tenant AND r.schedule_id = b.schedule_id AND r.state IN ('claimed', 'running')
				AND NOT r.queued AND r.backfill_id = b.id)
		FROM schedule_backfills b JOIN schedules s ON (s.tenant, s.id) = (b.tenant, b.schedule_id)
		WHERE s.tenant = $1 AND s.name = $2 AND b.id = $3::uuid`, auth.TenantOf(ctx), name.name, id), func(row pgx.Row) (Backfill, error) {
		b := Backfill{Schedule: name}
		var ended *time.Time
		err := row.Scan(&b.ID, &b.Version, &b.Start, &b.End, &b.Overlap, &b.MaxConcurrent, &b.Runs, &b.By, &b.CreatedAt, &b.CancelledBy, &ended, &b.Queued, &b.Active)
		if ended != nil {
			b.EndedAt = *ended
		}
		return b, err
	}, errNoBackfill(id))
}
