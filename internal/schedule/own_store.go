package schedule

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/loop"
	"plinth/internal/pg"
)

// upsertOwn makes the rows of the service's own jobs, or brings them up to date, and returns their ids by the names of the jobs.
func upsertOwn(ctx context.Context, system *pg.System, jobs []loop.Job) (map[string]string, error) {
	var names, definitions []string
	retention := RunRetention{}
	for _, j := range jobs {
		d := ownDefinition(j)
		encoded, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		names, definitions, retention = append(names, ownName(j).name), append(definitions, string(encoded)), d.RunRetention
	}
	rows, err := system.Query(ctx, `
		INSERT INTO schedules AS s (tenant, name, id, definition, created_at, updated_at, updated_by, run_max_age, run_max_count)
		SELECT $1, j.name, gen_random_uuid(), j.definition::json, now(), now(), 'service', $4::interval, $5
		FROM unnest($2::text[], $3::text[]) AS j (name, definition) ORDER BY j.name
		ON CONFLICT (tenant, name) DO UPDATE SET definition = excluded.definition, run_max_age = excluded.run_max_age, run_max_count = excluded.run_max_count
		RETURNING s.name, s.id::text`, ownTenant, names, definitions, retention.MaxAge, retention.MaxCount)
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	var name, id string
	_, err = pgx.ForEachRow(rows, []any{&name, &id}, func() error {
		ids[name[len(ownPrefix):]] = id
		return nil
	})
	return ids, err
}

// ownRun is a run of one of the service's own jobs.
type ownRun struct {
	schedule, id string
	job          loop.Job
	worker       string
	began        time.Time // by the clock of this process, to tell how long ago
	state        State
	err          string
}

// writeOwn writes how far a run is, the first time as a new one. Runs that began long ago and did not end belonged to workers that died.
func writeOwn(ctx context.Context, system *pg.System, r ownRun) error {
	_, err := system.Exec(ctx, `
		WITH known AS (
			UPDATE schedule_runs SET state = $4, error = $5, ended_at = clock_timestamp() WHERE tenant = $1 AND id = $3::uuid RETURNING n
		), lost AS (
			UPDATE schedule_runs r SET state = 'failed', ended_at = clock_timestamp(), error = 'the worker was lost'
			WHERE r.tenant = $1 AND r.schedule_id = $2::uuid AND r.state IN ('claimed', 'running') AND NOT r.queued AND r.id <> $3::uuid
				AND r.started_at < now() - greatest(2 * $8::interval, interval '15 minutes')
		), job AS (
			UPDATE schedules s SET runs = s.runs + n.new, fired = s.fired + n.new, last_fire_at = now() - $7::interval,
				next_fire_at = now() - $7::interval + $8::interval, failed = s.failed + CASE WHEN $4 = 'failed' THEN 1 ELSE 0 END,
				failures = CASE WHEN $4 = 'failed' THEN s.failures + 1 WHEN $4 = 'succeeded' THEN 0 ELSE s.failures END,
				last_success_at = CASE WHEN $4 = 'succeeded' THEN clock_timestamp() ELSE s.last_success_at END
			FROM (SELECT CASE WHEN EXISTS (SELECT FROM known) THEN 0 ELSE 1 END AS new) AS n
			WHERE s.tenant = $1 AND s.id = $2::uuid RETURNING s.runs, s.name, n.new
		)
		INSERT INTO schedule_runs (tenant, id, schedule_id, n, trigger, fire_at, due_at, planned, state, attempt, version, action, job, worker,
			started_at, ended_at, error)
		SELECT $1, $3::uuid, $2::uuid, runs, 'schedule', now() - $7::interval, now() - $7::interval, false, $4, 1, 1, 'job', name, $6,
			now() - $7::interval, CASE WHEN $4 <> 'running' THEN clock_timestamp() END, $5 FROM job WHERE new = 1`,
		ownTenant, r.schedule, r.id, r.state, r.err, r.worker, time.Since(r.began), r.job.Interval)
	return err
}
