package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/cron"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

func errNoSchedule(name Name) error {
	return errs.New(errs.NotFound, "name: there is no schedule %q", name)
}

// selectNow returns the database's time at the beginning of the transaction.
func selectNow(ctx context.Context, tx pg.Querier) (now time.Time, err error) {
	err = tx.QueryRow(ctx, `SELECT now()`).Scan(&now)
	return now.UTC(), err
}

// scheduleColumns are the columns that scanSchedule reads, of what is called s and has scheduleFields.
const (
	scheduleColumns = `s.name, s.id::text, s.version, s.definition, s.created_at, s.updated_at, s.updated_by, s.next_fire_at, s.last_fire_at,
	s.remaining_runs, s.paused_at, s.pause_note, s.paused_by, s.runs, s.faults, s.fault, s.backfills`
	scheduleFields = `name, id, version, definition, created_at, updated_at, updated_by, next_fire_at, last_fire_at,
	remaining_runs, paused_at, pause_note, paused_by, runs, faults, fault, backfills`
)

func scanSchedule(row pgx.Row, more ...any) (s Schedule, err error) {
	var definition []byte
	var next, last, paused *time.Time
	var note, by string
	err = row.Scan(append([]any{&s.Name.name, &s.id, &s.Version, &definition, &s.CreatedAt, &s.UpdatedAt, &s.UpdatedBy, &next, &last,
		&s.Remaining, &paused, &note, &by, &s.runs, &s.faults, &s.Error, &s.backfills}, more...)...)
	if err != nil {
		return s, err
	}
	if next != nil {
		s.nextFire = next.UTC()
	}
	if last != nil {
		s.lastFire = last.UTC()
	}
	if paused != nil {
		s.Pause = &Pause{Note: note, By: by, At: *paused}
	}
	s.CreatedAt = s.CreatedAt.UTC()
	if err := json.Unmarshal(definition, &s.Definition); err != nil {
		return s, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return s, nil
}

// errUnreadable is why a definition means nothing here: another release wrote it, or somebody who is not the service.
var errUnreadable = errors.New("the definition cannot be read")

// definitionArguments are the columns that are made of a definition: definition, pause_after, run_max_age, run_max_count,
// late_after, no_success_for and time_zone, and zone_version, by which its next fire time was computed.
func definitionArguments(d Definition, zones *cron.Zones) ([]any, error) {
	encoded, err := json.Marshal(d)
	return []any{string(encoded), d.PauseAfterFailures, d.RunRetention.MaxAge, d.RunRetention.MaxCount,
		unlessNone(d.Alert.LateAfter), unlessNone(d.Alert.NoSuccessFor), d.TimeZone, zones.Version(d.TimeZone)}, err
}

func unlessNone(d time.Duration) *time.Duration {
	if d == 0 {
		return nil
	}
	return &d
}

// insertSchedule inserts the row of a schedule. created is false if there is one of its name.
func insertSchedule(ctx context.Context, db *pg.Tx, zones *cron.Zones, s Schedule, due time.Time) (created bool, err error) {
	arguments, err := definitionArguments(s.Definition, zones)
	if err != nil {
		return false, err
	}
	tag, err := db.Exec(ctx, `
		INSERT INTO schedules (definition, pause_after, run_max_age, run_max_count, late_after, no_success_for, time_zone, zone_version,
			tenant, name, id, created_at, updated_at, updated_by, next_fire_at, next_due_at, remaining_runs)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::uuid, $12, $12, $13, $14, $15, $16) ON CONFLICT (tenant, name) DO NOTHING`,
		append(arguments, auth.TenantOf(ctx), s.Name.name, s.id, s.CreatedAt, s.UpdatedBy, unlessZero(s.nextFire), unlessZero(due), s.Remaining)...)
	return tag.RowsAffected() > 0, err
}

// updateSchedule writes a schedule whose definition changed. What was wrong with it before is to be found out anew.
func updateSchedule(ctx context.Context, db *pg.Tx, zones *cron.Zones, s Schedule, due time.Time) error {
	arguments, err := definitionArguments(s.Definition, zones)
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, `
		UPDATE schedules SET definition = $1, pause_after = $2, run_max_age = $3, run_max_count = $4, late_after = $5, no_success_for = $6,
			time_zone = $7, zone_version = $8, version = $11, updated_at = $12, updated_by = $13, next_fire_at = $14, next_due_at = $15,
			remaining_runs = $16, faults = 0, fault = '', late_alert_at = NULL, success_alert_at = NULL
		WHERE tenant = $9 AND id = $10::uuid`,
		append(arguments, auth.TenantOf(ctx), s.id, s.Version, s.UpdatedAt, s.UpdatedBy, unlessZero(s.nextFire), unlessZero(due), s.Remaining)...)
	return err
}

// updatePause writes the pause of a schedule, or its end, and when its next fire time is due.
func updatePause(ctx context.Context, db *pg.Tx, tenant string, s Schedule, due time.Time) error {
	var at *time.Time
	var p Pause
	if s.Pause != nil {
		p = *s.Pause
		at = &p.At
	}
	_, err := db.Exec(ctx, `UPDATE schedules SET paused_at = $3, pause_note = $4, paused_by = $5, next_due_at = $6, failures = 0,
			resumed_at = CASE WHEN $3::timestamptz IS NULL THEN now() END, success_alert_at = NULL, late_alert_at = NULL
		WHERE tenant = $1 AND id = $2::uuid`, tenant, s.id, at, p.Note, p.By, unlessZero(due))
	return err
}

// lockSchedule returns a schedule that nobody else changes or fires until the transaction ends, and the time. Its definition is
// whole, with secrets.
func lockSchedule(ctx context.Context, db *pg.Tx, name Name) (s Schedule, now time.Time, err error) {
	if name.builtIn() {
		return s, now, errBuiltIn(ctx, name)
	}
	s, err = scanSchedule(db.QueryRow(ctx, `SELECT `+scheduleColumns+`, clock_timestamp() FROM schedules s
		WHERE tenant = $1 AND name = $2 FOR NO KEY UPDATE`, auth.TenantOf(ctx), name.name), &now)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errNoSchedule(name)
	}
	s.now = now.UTC()
	return s, s.now, err
}

func selectSchedule(ctx context.Context, db pg.Querier, name Name) (Schedule, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+scheduleColumns+` FROM schedules s WHERE tenant = $1 AND name = $2`,
		auth.TenantOf(ctx), name.name), func(row pgx.Row) (Schedule, error) { return scanSchedule(row) }, errNoSchedule(name))
}

// selectSchedules returns up to size schedules after a name, or fewer, once they have bytes.
func selectSchedules(ctx context.Context, db pg.Querier, after string, size, bytes int) (found []Schedule, more bool, err error) {
	rows, err := db.Query(ctx, `
		SELECT `+scheduleColumns+`, octet_length(s.definition::text) FROM schedules s
		WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3`, auth.TenantOf(ctx), after, size+1)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	total := 0
	for rows.Next() {
		var n int
		s, err := scanSchedule(rows, &n)
		if err != nil {
			return nil, false, err
		}
		if total += n; len(found) == size || len(found) > 0 && total > bytes {
			return found, true, nil
		}
		found = append(found, s)
	}
	return found, false, rows.Err()
}

func selectStats(ctx context.Context, db pg.Querier, id string) (s Stats, err error) {
	err = db.QueryRow(ctx, `
		SELECT fired, skipped, missed, dropped, failed, (SELECT count(*) FROM schedule_runs r WHERE (r.tenant, r.schedule_id) = (s.tenant, s.id)
			AND state IN ('claimed', 'running') AND NOT queued AND state = 'claimed' AND next_at IS NULL)
		FROM schedules s WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id).
		Scan(&s.Fired, &s.Skipped, &s.Missed, &s.Dropped, &s.Failed, &s.Buffered)
	return s, err
}

// deleteSchedule deletes a schedule and ends its runs, which it returns. Their rows are orphans, which the sweep removes.
func deleteSchedule(ctx context.Context, db *pg.Tx, s *Schedule, now time.Time) (ended []*Run, err error) {
	rows, err := db.Query(ctx, `
		UPDATE schedule_runs r SET state = 'cancelled', queued = false, next_at = NULL, token = 0, ended_at = $3
		WHERE tenant = $1 AND schedule_id = $2::uuid AND state IN ('claimed', 'running') RETURNING `+runColumns, auth.TenantOf(ctx), s.id, now)
	if ended, err = collectRuns(rows, err, s); err != nil {
		return nil, err
	}
	for _, sql := range []string{
		`DELETE FROM schedule_backfills WHERE tenant = $1 AND schedule_id = $2::uuid`, `DELETE FROM schedules WHERE tenant = $1 AND id = $2::uuid`,
	} {
		if _, err := db.Exec(ctx, sql, auth.TenantOf(ctx), s.id); err != nil {
			return nil, err
		}
	}
	return ended, nil
}

// selectUpcoming returns up to limit schedules that have a next fire time, the earliest first: those after a fire time and a name.
func selectUpcoming(ctx context.Context, db pg.Querier, after time.Time, name Name, limit int) ([]Schedule, error) {
	rows, err := db.Query(ctx, `SELECT `+scheduleColumns+` FROM schedules s
		WHERE tenant = $1 AND next_due_at IS NOT NULL AND ($2::timestamptz IS NULL OR (next_fire_at, name) > ($2, $3))
		ORDER BY next_fire_at, name LIMIT $4`, auth.TenantOf(ctx), unlessZero(after), name.name, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Schedule, error) { return scanSchedule(row) })
}

// insertChange inserts a change, with an id that is later than those of all changes of schedules of its name, whatever the clock says.
// The transaction has locked the schedule, so that no other one changes it meanwhile.
func insertChange(ctx context.Context, db *pg.Tx, c Change) error {
	var latest uuid.NullUUID
	if err := db.QueryRow(ctx, `SELECT (SELECT id FROM schedule_changes WHERE tenant = $1 AND schedule = $2 ORDER BY id DESC LIMIT 1)::text`,
		c.tenant, c.Schedule.name).Scan(&latest); err != nil {
		return err
	}
	if id := latest.UUID.String(); latest.Valid && c.ID <= id {
		c.ID = idAfter(latest.UUID)
	}
	var definition *string
	if c.After != nil {
		encoded, err := json.Marshal(c.After)
		if err != nil {
			return err
		}
		text := string(encoded)
		definition = &text
	}
	if c.Fields == nil {
		c.Fields = []string{}
	}
	_, err := db.Exec(ctx, `
		INSERT INTO schedule_changes (tenant, id, schedule, schedule_id, kind, principal, changed_at, note, version, fields, definition)
		VALUES ($1, $2::uuid, $3, $4::uuid, $5, $6, $7, $8, $9, $10, $11)`,
		c.tenant, c.ID, c.Schedule.name, c.scheduleID, c.Kind, c.By, c.At, c.Note, c.Version, c.Fields, definition)
	return err
}

// selectChanges returns up to size changes of schedules of a name that came before one, or fewer, once they have bytes.
func selectChanges(ctx context.Context, db pg.Querier, name Name, before string, size, bytes int) (found []Change, more bool, err error) {
	rows, err := db.Query(ctx, `
		SELECT id::text, kind, principal, changed_at, note, version, fields, definition FROM schedule_changes
		WHERE tenant = $1 AND schedule = $2 AND id < $3::uuid ORDER BY schedule_changes.id DESC LIMIT $4`, auth.TenantOf(ctx), name.name, before, size+1)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	total := 0
	for rows.Next() {
		c := Change{Schedule: name}
		var definition []byte
		if err := rows.Scan(&c.ID, &c.Kind, &c.By, &c.At, &c.Note, &c.Version, &c.Fields, &definition); err != nil {
			return nil, false, err
		}
		if definition != nil {
			if err := json.Unmarshal(definition, &c.After); err != nil {
				return nil, false, err
			}
		}
		if total += len(definition); len(found) == size || len(found) > 0 && total > bytes {
			return found, true, nil
		}
		found = append(found, c)
	}
	return found, false, rows.Err()
}
