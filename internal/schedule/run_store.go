package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

func errNoRun(id string) error {
	return errs.New(errs.NotFound, "id: there is no run %s of that schedule", id)
}

// runRow is a run as JSON that PostgreSQL makes a row of.
type runRow struct {
	Tenant      string          `json:"tenant"`
	ID          string          `json:"id"`
	ScheduleID  string          `json:"schedule_id"`
	N           int64           `json:"n"`
	Trigger     Trigger         `json:"trigger"`
	FireAt      time.Time       `json:"fire_at"`
	DueAt       time.Time       `json:"due_at"`
	Planned     bool            `json:"planned"`
	State       State           `json:"state"`
	Attempt     int             `json:"attempt"`
	Version     int64           `json:"version"`
	Action      string          `json:"action"`
	Job         string          `json:"job"`
	NextAt      *time.Time      `json:"next_at"`
	Arguments   json.RawMessage `json:"arguments,omitempty"`
	SkipReason  string          `json:"skip_reason"`
	MissedCount int64           `json:"missed_count"`
	MissedUntil *time.Time      `json:"missed_until"`
	MessageID   string          `json:"message_id"`
	Worker      string          `json:"worker"`
	StartedAt   *time.Time      `json:"started_at"`
	EndedAt     *time.Time      `json:"ended_at"`
	Error       string          `json:"error"`
	BackfillID  *string         `json:"backfill_id"`
	Losses      int             `json:"losses"`
	HTTPStatus  int             `json:"http_status"`
	Queued      bool            `json:"queued"`
}

func (r *Run) row() runRow {
	row := runRow{
		Tenant: r.tenant, ID: r.ID, ScheduleID: r.schedule.id, N: r.n, Trigger: r.Trigger, FireAt: r.FireAt, DueAt: r.DueAt,
		Planned: r.planned, State: r.State, Attempt: r.Attempt, Version: r.Version, Action: r.action.kind(), Job: r.action.job(),
		NextAt: unlessZero(r.NextAt), Arguments: r.Arguments, SkipReason: r.SkipReason, MissedCount: r.MissedCount,
		MissedUntil: unlessZero(r.MissedUntil), MessageID: r.MessageID, Worker: r.Worker, StartedAt: unlessZero(r.StartedAt),
		EndedAt: unlessZero(r.EndedAt), Error: r.Error, Losses: r.losses, Queued: r.queued,
	}
	if r.BackfillID != "" {
		row.BackfillID = &r.BackfillID
	}
	return row
}

// insertRuns inserts new runs. A fire time that has a run already is a violation of schedule_runs_fire.
func insertRuns(ctx context.Context, tx *pg.Tx, runs []*Run) error {
	if len(runs) == 0 {
		return nil
	}
	encoded, err := rowsOf(runs)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO schedule_runs (tenant, id, schedule_id, n, trigger, fire_at, due_at, planned, state, attempt, version, action, job, next_at,
			arguments, skip_reason, missed_count, missed_until, message_id, worker, started_at, ended_at, error, backfill_id, queued)
		SELECT tenant, id, schedule_id, n, trigger, fire_at, due_at, planned, state, attempt, version, action, job, next_at,
			arguments, skip_reason, missed_count, missed_until, message_id, worker, started_at, ended_at, error, backfill_id, queued
		FROM json_to_recordset($1) AS r (tenant text, id uuid, schedule_id uuid, n bigint, trigger text, fire_at timestamptz,
			due_at timestamptz, planned boolean, state text, attempt integer, version bigint, action text, job text, next_at timestamptz,
			arguments json, skip_reason text, missed_count bigint, missed_until timestamptz, message_id text, worker text,
			started_at timestamptz, ended_at timestamptz, error text, backfill_id uuid, queued boolean)`, encoded)
	return err
}

func rowsOf(runs []*Run) (string, error) {
	rows := make([]runRow, len(runs))
	for i, r := range runs {
		rows[i] = r.row()
	}
	encoded, err := json.Marshal(rows)
	return string(encoded), err
}

// updateRuns writes what became of runs. Whoever works at one of them has lost it.
func updateRuns(ctx context.Context, tx *pg.Tx, runs []*Run) error {
	encoded, err := rowsOf(runs)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE schedule_runs r SET state = u.state, attempt = u.attempt, next_at = u.next_at, skip_reason = u.skip_reason,
			message_id = u.message_id, worker = u.worker, started_at = u.started_at, ended_at = u.ended_at, error = u.error,
			losses = u.losses, cancelled = false, token = 0
		FROM json_to_recordset($1) AS u (tenant text, id uuid, state text, attempt integer, next_at timestamptz, skip_reason text,
			message_id text, worker text, started_at timestamptz, ended_at timestamptz, error text, losses integer)
		WHERE r.tenant = u.tenant AND r.id = u.id`, encoded)
	return err
}

// promoteWaiting lets the first run that waits start, of each schedule of the given runs that has no other run under way.
func promoteWaiting(ctx context.Context, tx *pg.Tx, runs []*Run) (promoted bool, err error) {
	var tenants, ids []string
	seen := map[string]bool{}
	for _, r := range runs {
		if r.ended() && !seen[r.schedule.id] {
			seen[r.schedule.id] = true
			tenants, ids = append(tenants, r.tenant), append(ids, r.schedule.id)
		}
	}
	tag, err := tx.Exec(ctx, `
		UPDATE schedule_runs r SET next_at = greatest(r.due_at, clock_timestamp()) FROM (
			SELECT s.tenant, w.id FROM unnest($1::text[], $2::text[]) AS s (tenant, schedule_id) CROSS JOIN LATERAL (
				SELECT id, state, next_at FROM schedule_runs a
				WHERE a.tenant = s.tenant AND a.schedule_id = s.schedule_id::uuid AND a.state IN ('claimed', 'running') AND NOT a.queued
				ORDER BY (a.state = 'claimed' AND a.next_at IS NULL), a.n LIMIT 1) AS w
			WHERE w.state = 'claimed' AND w.next_at IS NULL) AS first
		WHERE r.tenant = first.tenant AND r.id = first.id`, tenants, ids)
	return tag.RowsAffected() > 0, err
}

// cancelOthers ends the runs of a schedule that have not begun, and asks those that run to end, but for those of one backfill, if its id
// is not empty, and all that are queued. It returns the runs that it ended, and how many others run.
func (s *Service) cancelOthers(ctx context.Context, tx *pg.Tx, now time.Time, tenant string, sch *Schedule, but string) (ended []*Run, running int, err error) {
	rows, err := tx.Query(ctx, cancelSQL+` AND ($4 = '' OR r.backfill_id IS DISTINCT FROM nullif($4, '')::uuid) RETURNING `+runColumns, tenant, sch.id, now, but)
	all, err := collectRuns(rows, err, sch)
	ended = s.wakeRunning(tx, all)
	return ended, len(all) - len(ended), err
}

// cancelRuns is cancelOthers for those of one backfill.
func (s *Service) cancelRuns(ctx context.Context, tx *pg.Tx, now time.Time, tenant string, sch *Schedule, backfill string) (ended []*Run, err error) {
	rows, err := tx.Query(ctx, cancelSQL+` AND r.backfill_id = $4::uuid RETURNING `+runColumns, tenant, sch.id, now, backfill)
	all, err := collectRuns(rows, err, sch)
	return s.wakeRunning(tx, all), err
}

const cancelSQL = `
	UPDATE schedule_runs r SET cancelled = state = 'running', state = CASE state WHEN 'claimed' THEN 'cancelled' ELSE state END,
		next_at = CASE state WHEN 'claimed' THEN NULL ELSE next_at END, ended_at = CASE state WHEN 'claimed' THEN $3 ELSE ended_at END
	WHERE tenant = $1 AND schedule_id = $2::uuid AND state IN ('claimed', 'running') AND NOT queued`

// wakeRunning has the workers end the runs that run, once tx is committed, and returns those that have ended.
func (s *Service) wakeRunning(tx *pg.Tx, all []*Run) (ended []*Run) {
	for _, r := range all {
		if r.ended() {
			ended = append(ended, r)
		}
	}
	if len(ended) < len(all) {
		s.wakeCancelled(tx)
	}
	return ended
}

// markCancelled asks running runs to end.
func markCancelled(ctx context.Context, tx *pg.Tx, ids []string) error {
	_, err := tx.Exec(ctx, `UPDATE schedule_runs SET cancelled = true WHERE tenant = $1 AND id = ANY ($2::text[]::uuid[]) AND state = 'running'`,
		auth.TenantOf(ctx), ids)
	return err
}

// restartRun lets a run start again that has ended.
func restartRun(ctx context.Context, tx *pg.Tx, id string, now time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE schedule_runs SET state = 'claimed', next_at = $3, ended_at = NULL, skip_reason = '', losses = 0
		WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id, now)
	return err
}

// useTriggerKey returns the id of the run that a key was used for in the last 24 hours, else the one given, which has it then.
func useTriggerKey(ctx context.Context, tx *pg.Tx, scheduleID, key, id string) (first string, err error) {
	err = tx.QueryRow(ctx, `
		INSERT INTO schedule_trigger_keys AS k (tenant, schedule_id, key, run_id) VALUES ($1, $2::uuid, $3, $4::uuid)
		ON CONFLICT (tenant, schedule_id, key) DO UPDATE SET
			run_id = CASE WHEN k.created_at <= now() - interval '24 hours' THEN excluded.run_id ELSE k.run_id END,
			created_at = CASE WHEN k.created_at <= now() - interval '24 hours' THEN excluded.created_at ELSE k.created_at END
		RETURNING run_id::text`, auth.TenantOf(ctx), scheduleID, key, id).Scan(&first)
	return first, err
}

// runColumns are the columns that scanRun reads, of what is called r.
const runColumns = `r.tenant, r.id::text, r.n, r.trigger, r.fire_at, r.due_at, r.planned, r.state, r.attempt, r.version, r.next_at, r.token, r.losses,
	r.cancelled, r.arguments, r.skip_reason, r.missed_count, r.missed_until, r.message_id, r.http_status, r.worker, r.started_at, r.ended_at,
	r.error, r.log_cut, coalesce(r.backfill_id::text, '')`

func scanRun(row pgx.Row, more ...any) (r Run, err error) {
	var next, until, started, ended *time.Time
	var arguments []byte
	var status int
	err = row.Scan(append([]any{&r.tenant, &r.ID, &r.n, &r.Trigger, &r.FireAt, &r.DueAt, &r.planned, &r.State, &r.Attempt, &r.Version, &next,
		&r.token, &r.losses, &r.cancelled, &arguments, &r.SkipReason, &r.MissedCount, &until, &r.MessageID, &status, &r.Worker, &started, &ended,
		&r.Error, &r.LogCut, &r.BackfillID}, more...)...)
	for to, from := range map[*time.Time]*time.Time{&r.NextAt: next, &r.MissedUntil: until, &r.StartedAt: started, &r.EndedAt: ended} {
		if from != nil {
			*to = from.UTC()
		}
	}
	r.FireAt, r.DueAt, r.Arguments = r.FireAt.UTC(), r.DueAt.UTC(), arguments
	r.waits = r.State == Claimed && next == nil
	if status != 0 {
		r.HTTP = &Answer{Status: status}
	}
	return r, err
}

// selectRuns returns up to limit runs of a schedule whose numbers are less than before, the latest first.
func selectRuns(ctx context.Context, db pg.Querier, s Schedule, match RunFilter, before int64, limit int) ([]Run, error) {
	states := make([]string, len(match.States))
	for i, state := range match.States {
		states[i] = string(state)
	}
	rows, err := db.Query(ctx, `
		SELECT `+runColumns+` FROM schedule_runs r
		WHERE tenant = $1 AND schedule_id = $2::uuid AND n < $3 AND (cardinality($5::text[]) = 0 OR state = ANY ($5)) AND ($6 = '' OR trigger = $6)
			AND ($7::timestamptz IS NULL OR fire_at >= $7) AND ($8::timestamptz IS NULL OR fire_at < $8)
			AND ($9 = '' OR backfill_id::text = $9)
		ORDER BY n DESC LIMIT $4`, auth.TenantOf(ctx), s.id, before, limit, states, match.Trigger, unlessZero(match.Start), unlessZero(match.End),
		match.BackfillID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Run, error) {
		r, err := scanRun(row)
		r.Schedule = s.Name
		return r, err
	})
}

// selectRunning returns up to limit runs of a schedule that a worker is at.
func selectRunning(ctx context.Context, db pg.Querier, s Schedule, limit int) ([]Run, error) {
	rows, err := db.Query(ctx, `SELECT `+runColumns+` FROM schedule_runs r
		WHERE tenant = $1 AND schedule_id = $2::uuid AND state IN ('claimed', 'running') AND NOT queued AND state = 'running' ORDER BY n DESC LIMIT $3`,
		auth.TenantOf(ctx), s.id, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Run, error) {
		r, err := scanRun(row)
		r.Schedule = s.Name
		return r, err
	})
}

// selectRun returns a run of a schedule with its log and answer.
func selectRun(ctx context.Context, db pg.Querier, name Name, id string) (Run, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+runColumns+`, r.log, r.http_body FROM schedule_runs r
		JOIN schedules s ON (s.tenant, s.id) = (r.tenant, r.schedule_id) WHERE s.tenant = $1 AND s.name = $2 AND r.id = $3::uuid`,
		auth.TenantOf(ctx), name.name, id), func(row pgx.Row) (Run, error) {
		var log, body []byte
		r, err := scanRun(row, &log, &body)
		r.Schedule = name
		if r.HTTP != nil {
			r.HTTP.Body = body
		}
		if err == nil && log != nil {
			err = json.Unmarshal(log, &r.Log)
		}
		return r, err
	}, errNoRun(id))
}

// lockRun returns a run of a schedule that tx has locked, and locks it as well. The run has the action of its version.
func lockRun(ctx context.Context, tx *pg.Tx, s *Schedule, id string) (Run, error) {
	var definition []byte
	r, err := scanRun(tx.QueryRow(ctx, `SELECT `+runColumns+`, (SELECT c.definition FROM schedule_changes c
			WHERE (c.tenant, c.schedule_id, c.version) = (r.tenant, r.schedule_id, r.version) AND c.definition IS NOT NULL)
		FROM schedule_runs r WHERE tenant = $1 AND schedule_id = $2::uuid AND id = $3::uuid FOR NO KEY UPDATE OF r`,
		auth.TenantOf(ctx), s.id, id), &definition)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, errNoRun(id)
	}
	if err != nil {
		return r, err
	}
	return r, r.belong(s, definition)
}

// belong sets what a run has of its schedule: its definition, of its own version.
func (r *Run) belong(s *Schedule, definition []byte) error {
	own := *s
	r.schedule, r.Schedule = &own, s.Name
	if definition == nil {
		return nil
	}
	own.Definition = Definition{}
	if err := json.Unmarshal(definition, &own.Definition); err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	r.action = own.Action
	return nil
}
