package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// claimedColumns are the columns of a run that runColumns reads, and those of its schedule, its name and its definition.
const claimedColumns = `r.tenant, r.id, r.n, r.trigger, r.fire_at, r.due_at, r.planned, r.state, r.attempt, r.version, r.next_at, r.token, r.losses,
	r.cancelled, r.arguments, r.skip_reason, r.missed_count, r.missed_until, r.message_id, r.http_status, r.worker, r.started_at, r.ended_at,
	r.error, r.log_cut, r.backfill_id, r.schedule_id, s.name, s.backfills, c.definition`

// claimRuns locks runs that are to start, or whose lease is over, with their schedules: the earliest ones of each tenant up to its
// share, without those that another transaction has locked. Of those that take their time it claims up to free.
func claimRuns(ctx context.Context, tx *pg.Tx, shares []share, free int, jobs []string) (runs []*Run, now time.Time, err error) {
	tenants, limits := shareArrays(shares)
	for _, kind := range []struct {
		action string
		jobs   []string
		limit  int
	}{{"publish", nil, runBatch}, {"http", jobs, free}} {
		rows, err := tx.Query(ctx, `
			SELECT `+runColumns+`, now(), r.schedule_id::text, r.name, r.backfills, r.definition FROM unnest($1::text[], $2::int[]) AS t (tenant, share)
			CROSS JOIN LATERAL (
				SELECT `+claimedColumns+` FROM schedule_runs r
				JOIN schedules s ON (s.tenant, s.id) = (r.tenant, r.schedule_id)
				JOIN schedule_changes c ON (c.tenant, c.schedule_id, c.version) = (r.tenant, r.schedule_id, r.version) AND c.definition IS NOT NULL
				WHERE r.tenant = t.tenant AND r.next_at <= now() AND (r.action = $4 OR r.job = ANY ($5))
				ORDER BY r.next_at LIMIT least(t.share, $3) FOR NO KEY UPDATE OF r, s SKIP LOCKED) AS r
			LIMIT $3`, tenants, limits, kind.limit, kind.action, kind.jobs)
		if err != nil {
			return nil, now, err
		}
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Run, error) {
			var s Schedule
			var definition []byte
			r, err := scanRun(row, &now, &s.id, &s.Name.name, &s.backfills, &definition)
			if err != nil {
				return nil, err
			}
			r.unreadable = r.belong(&s, definition)
			return &r, nil
		})
		if err != nil {
			return nil, now, err
		}
		runs = append(runs, found...)
	}
	return runs, now.UTC(), nil
}

// beginRuns begins an attempt of each run, with a lease and a fencing token.
func beginRuns(ctx context.Context, tx *pg.Tx, runs []*Run, worker string, lease time.Duration) error {
	if len(runs) == 0 {
		return nil
	}
	of, tenants, ids, losses := map[string]*Run{}, []string{}, []string{}, []int32{}
	for _, r := range runs {
		of[r.ID], tenants, ids, losses = r, append(tenants, r.tenant), append(ids, r.ID), append(losses, int32(r.losses))
	}
	rows, err := tx.Query(ctx, `
		UPDATE schedule_runs r SET state = 'running', attempt = r.attempt + 1, token = nextval('schedule_run_tokens'), worker = $4, losses = b.losses,
			next_at = now() + $5::interval, started_at = now(), ended_at = NULL, error = '', log = NULL, log_cut = false,
			http_status = 0, http_body = NULL, cancelled = false
		FROM unnest($1::text[], $2::text[], $3::int[]) AS b (tenant, id, losses) WHERE r.tenant = b.tenant AND r.id = b.id::uuid
		RETURNING r.id::text, r.attempt, r.token, r.started_at`, tenants, ids, losses, worker, lease)
	if err != nil {
		return err
	}
	var id string
	var attempt int
	var token int64
	var started time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &attempt, &token, &started}, func() error {
		r := of[id]
		r.State, r.Attempt, r.token, r.StartedAt, r.Worker, r.Error = Running, attempt, token, started.UTC(), worker, ""
		return nil
	})
	return err
}

// renewLeases renews the leases of attempts. It returns the runs that still are this process's, and those of them that somebody
// cancelled.
func renewLeases(ctx context.Context, system *pg.System, all []*attempt, lease time.Duration) (kept, cancelled []string, err error) {
	var tenants, ids []string
	var tokens []int64
	for _, a := range all {
		tenants, ids, tokens = append(tenants, a.run.tenant), append(ids, a.RunID), append(tokens, a.Token)
	}
	rows, err := system.Query(ctx, `
		UPDATE schedule_runs r SET next_at = now() + $4::interval
		FROM unnest($1::text[], $2::text[], $3::bigint[]) AS a (tenant, id, token)
		WHERE r.tenant = a.tenant AND r.id = a.id::uuid AND r.token = a.token AND r.state = 'running'
		RETURNING r.id::text, r.cancelled`, tenants, ids, tokens, lease)
	if err != nil {
		return nil, nil, err
	}
	var id string
	var ends bool
	_, err = pgx.ForEachRow(rows, []any{&id, &ends}, func() error {
		if kept = append(kept, id); ends {
			cancelled = append(cancelled, id)
		}
		return nil
	})
	return kept, cancelled, err
}

// lockAttempt locks the schedule and the run of an attempt, and reads how many backfills the schedule has. held reports whether the
// run is still the attempt's.
func lockAttempt(ctx context.Context, tx *pg.Tx, a *attempt) (now time.Time, held bool, err error) {
	err = tx.QueryRow(ctx, `SELECT backfills FROM schedules WHERE tenant = $1 AND id = $2::uuid FOR NO KEY UPDATE`,
		a.run.tenant, a.run.schedule.id).Scan(&a.run.schedule.backfills)
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT clock_timestamp() FROM schedule_runs
			WHERE tenant = $1 AND id = $2::uuid AND token = $3 AND state = 'running' FOR NO KEY UPDATE`,
			a.run.tenant, a.RunID, a.Token).Scan(&now)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return now, false, nil
	}
	return now.UTC(), err == nil, err
}

// holdsToken reports whether a run is still that of an attempt's token, and keeps it so until tx ends.
func holdsToken(ctx context.Context, tx *pg.Tx, id string, token int64) (holds bool, err error) {
	err = tx.QueryRow(ctx, `SELECT true FROM schedule_runs
		WHERE tenant = $1 AND id = $2::uuid AND token = $3 AND state = 'running' AND NOT cancelled AND next_at > clock_timestamp() FOR SHARE`,
		auth.TenantOf(ctx), id, token).Scan(&holds)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return holds, err
}

// updateOutput writes what an attempt left behind: its log, and the answer to its request.
func updateOutput(ctx context.Context, tx *pg.Tx, r *Run, lines []LogLine, cut bool) error {
	encoded, err := json.Marshal(lines)
	if err != nil {
		return err
	}
	answer := Answer{}
	if r.HTTP != nil {
		answer = *r.HTTP
	}
	_, err = tx.Exec(ctx, `UPDATE schedule_runs SET log = $3, log_cut = $4, http_status = $5, http_body = $6 WHERE tenant = $1 AND id = $2::uuid`,
		r.tenant, r.ID, string(encoded), cut, answer.Status, answer.Body)
	return err
}
