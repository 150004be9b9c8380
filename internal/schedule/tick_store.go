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

// ticksLate and runsLate are for how long the earliest row of all tenants has been due. The results are negative if none is.
const (
	ticksLate = `SELECT coalesce(now() - min(next_due_at), '-1 hour') FROM schedules`
	runsLate  = `SELECT coalesce(now() - min(next_at), '-1 hour') FROM schedule_runs`
)

// selectEarliest returns how long no row is due. It takes one lookup in an index, however many rows there are.
func selectEarliest(ctx context.Context, tx *pg.Tx, t *turns) (next time.Duration, err error) {
	var wait *time.Duration
	err = tx.QueryRow(ctx, `SELECT min(`+t.column+`) - now() FROM `+t.table+` WHERE `+t.column+` IS NOT NULL`).Scan(&wait)
	if wait == nil {
		return farOff, err
	}
	return min(*wait, farOff), err
}

// selectTenants returns up to limit tenants that come after one, in their order, whether something of theirs is due or not. Each
// takes one lookup in an index.
func selectTenants(ctx context.Context, tx *pg.Tx, t *turns, after string, limit int) ([]tenantDue, error) {
	rows, err := tx.Query(ctx, `
		WITH RECURSIVE tenants AS (
			(SELECT tenant, `+t.column+` AS due_at, 1 AS n FROM `+t.table+`
			WHERE `+t.column+` IS NOT NULL AND tenant > $1 ORDER BY tenant, `+t.column+` LIMIT 1)
			UNION ALL
			SELECT s.tenant, s.due_at, t.n + 1 FROM tenants t CROSS JOIN LATERAL (
				SELECT tenant, `+t.column+` AS due_at FROM `+t.table+`
				WHERE `+t.column+` IS NOT NULL AND tenant > t.tenant ORDER BY tenant, `+t.column+` LIMIT 1) AS s
			WHERE t.n < $2
		)
		SELECT tenant, due_at - now() FROM tenants ORDER BY n`, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d tenantDue, err error) {
		err = row.Scan(&d.tenant, &d.due)
		return d, err
	})
}

func shareArrays(shares []share) (tenants []string, rows []int32) {
	for _, s := range shares {
		tenants, rows = append(tenants, s.tenant), append(rows, int32(s.rows))
	}
	return tenants, rows
}

// claimSchedules locks schedules that are due: the earliest ones of each tenant up to its share, without those that another worker
// has locked.
func claimSchedules(ctx context.Context, tx *pg.Tx, shares []share) ([]*firing, error) {
	tenants, limits := shareArrays(shares)
	rows, err := tx.Query(ctx, `
		SELECT `+scheduleColumns+`, s.tenant, now() FROM unnest($1::text[], $2::int[]) AS t (tenant, share) CROSS JOIN LATERAL (
			SELECT `+scheduleFields+`, tenant FROM schedules s WHERE s.tenant = t.tenant AND s.next_due_at <= now()
			ORDER BY s.next_due_at LIMIT t.share FOR NO KEY UPDATE SKIP LOCKED) AS s`, tenants, limits)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*firing, error) { return scanFiring(row) })
}

func scanFiring(row pgx.Row) (*firing, error) {
	f := &firing{}
	var now time.Time
	s, err := scanSchedule(row, &f.tenant, &now)
	s.now = now.UTC()
	f.schedule = &s
	if errors.Is(err, errUnreadable) { // It must not hold up the others.
		f.unreadable, err = err, nil
	}
	return f, err
}

// claimSchedule locks one schedule, or returns nil if it is not due any longer or another worker has locked it.
func claimSchedule(ctx context.Context, tx *pg.Tx, tenant, id string) (*firing, error) {
	f, err := scanFiring(tx.QueryRow(ctx, `SELECT `+scheduleColumns+`, s.tenant, now() FROM schedules s
		WHERE tenant = $1 AND id = $2::uuid AND next_due_at <= now() FOR NO KEY UPDATE SKIP LOCKED`, tenant, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return f, err
}

// postpone leaves a schedule alone for a while that could not be fired.
func postpone(ctx context.Context, db pg.Querier, f *firing, why string) error {
	_, err := db.Exec(ctx, `UPDATE schedules SET faults = faults + 1, fault = $3, next_due_at = now() + $4::interval
		WHERE tenant = $1 AND id = $2::uuid AND next_due_at IS NOT NULL`, f.tenant, f.schedule.id, errs.Shortened(pg.Text(why), maxError), f.backoff())
	return err
}

// countActive sets how many runs of the schedules are not over. Those whose runs are over at once have none.
func countActive(ctx context.Context, tx *pg.Tx, firings []*firing) error {
	var tenants, ids []string
	of := map[string]*firing{}
	for _, f := range firings {
		if len(f.runs) > 0 && !f.schedule.instant() {
			tenants, ids, of[f.schedule.id] = append(tenants, f.tenant), append(ids, f.schedule.id), f
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `
		SELECT s.id, r.active, r.waits FROM unnest($1::text[], $2::text[]) AS s (tenant, id) CROSS JOIN LATERAL (
			SELECT count(*) AS active, count(*) FILTER (WHERE state = 'claimed' AND next_at IS NULL) AS waits FROM schedule_runs r
			WHERE r.tenant = s.tenant AND r.schedule_id = s.id::uuid AND r.state IN ('claimed', 'running') AND NOT r.queued) AS r`, tenants, ids)
	if err != nil {
		return err
	}
	var id string
	var active, waits int
	_, err = pgx.ForEachRow(rows, []any{&id, &active, &waits}, func() error {
		of[id].active, of[id].buffered = active, waits
		return nil
	})
	return err
}

// updateTallies adds tallies to the rows of their schedules, and returns the ids of those that are to pause for their failures.
func updateTallies(ctx context.Context, tx *pg.Tx, now time.Time, tallies []*tally) (failing []string, err error) {
	encoded, err := json.Marshal(tallies)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `
		UPDATE schedules s SET runs = s.runs + t.runs, fired = s.fired + t.fired, skipped = s.skipped + t.skipped, missed = s.missed + t.missed,
			dropped = s.dropped + t.dropped, failed = s.failed + t.failed,
			failures = CASE WHEN t.succeeded THEN t.failures ELSE s.failures + t.failures END,
			last_success_at = CASE WHEN t.succeeded THEN $2 ELSE s.last_success_at END,
			success_alert_at = CASE WHEN t.succeeded THEN NULL ELSE s.success_alert_at END,
			late_alert_at = CASE WHEN t.moved AND coalesce(t.due > $2, true) THEN NULL ELSE s.late_alert_at END,
			remaining_runs = s.remaining_runs - t.used,
			next_fire_at = CASE WHEN t.moved THEN t.next ELSE s.next_fire_at END,
			next_due_at = CASE WHEN t.moved THEN t.due ELSE s.next_due_at END,
			last_fire_at = CASE WHEN t.moved THEN t.last ELSE s.last_fire_at END,
			zone_version = CASE WHEN t.moved THEN t.zone ELSE s.zone_version END,
			faults = CASE WHEN t.moved THEN 0 ELSE s.faults END, fault = CASE WHEN t.moved THEN '' ELSE s.fault END
		FROM json_to_recordset($1) AS t (tenant text, id uuid, runs bigint, fired bigint, skipped bigint, missed bigint, dropped bigint,
			failed bigint, succeeded boolean, failures integer, used bigint, moved boolean, next timestamptz, due timestamptz, last timestamptz, zone text)
		WHERE s.tenant = t.tenant AND s.id = t.id
		RETURNING s.id::text, s.pause_after > 0 AND s.failures >= s.pause_after AND s.paused_at IS NULL`, string(encoded), now)
	if err != nil {
		return nil, err
	}
	var id string
	var fails bool
	_, err = pgx.ForEachRow(rows, []any{&id, &fails}, func() error {
		if fails {
			failing = append(failing, id)
		}
		return nil
	})
	return failing, err
}

func insertRunCount(ctx context.Context, tx *pg.Tx, n int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO schedule_run_counts (tenant, n) VALUES ($1, $2)`, auth.TenantOf(ctx), n)
	return err
}
