package schedule

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// alarmsSQL selects the schedules, after one, that are not doing well and whose owners have not been told.
//
// A schedule that cannot be fired is put off by its due time, so its fire time says how late it is. One that has no fire times left
// and succeeded at its last is well.
const alarmsSQL = `
	SELECT tenant, id::text, name, topic, late, no_success, now() FROM (
		SELECT tenant, id, name, definition -> 'alert' ->> 'topic' AS topic,
			CASE WHEN late_alert_at IS NULL AND CASE WHEN faults > 0 THEN next_fire_at ELSE next_due_at END < now() - late_after
				THEN CASE WHEN faults > 0 THEN next_fire_at ELSE next_due_at END END AS late,
			CASE WHEN success_alert_at IS NULL AND greatest(last_success_at, created_at, resumed_at) < now() - no_success_for
				AND (next_fire_at IS NOT NULL OR last_success_at IS NULL OR last_success_at < last_fire_at)
				THEN greatest(last_success_at, created_at, resumed_at) END AS no_success
		FROM schedules WHERE (late_after IS NOT NULL OR no_success_for IS NOT NULL) AND paused_at IS NULL
			AND (tenant, id) > ($1, coalesce(nullif($2, '')::uuid, '00000000-0000-0000-0000-000000000000'))
	) AS s
	WHERE topic <> '' AND (late IS NOT NULL OR no_success IS NOT NULL)`

// hasAlarms reports whether there are any, which costs an idle service less than to lock them.
func hasAlarms(ctx context.Context, db pg.Querier) (found bool, err error) {
	err = db.QueryRow(ctx, `SELECT EXISTS (`+alarmsSQL+`)`, "", "").Scan(&found)
	return found, err
}

// lockAlarms returns up to limit schedules, after one in the order of tenants and ids, that are not doing well and whose owners have
// not been told. It locks them, and leaves out those that others have locked.
func lockAlarms(ctx context.Context, tx *pg.Tx, after alarm, limit int) (alarms []*alarm, now time.Time, err error) {
	rows, err := tx.Query(ctx, alarmsSQL+` ORDER BY tenant, s.id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED`, after.tenant, after.id, limit)
	if err != nil {
		return nil, now, err
	}
	alarms, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*alarm, error) {
		a := &alarm{}
		return a, row.Scan(&a.tenant, &a.id, &a.name, &a.topic, &a.late, &a.noSuccess, &now)
	})
	return alarms, now, err
}

// markAlarms remembers what the owners of schedules were told.
func markAlarms(ctx context.Context, tx *pg.Tx, alarms []*alarm) error {
	var tenants, ids []string
	var lates, noSuccesses []bool
	for _, a := range alarms {
		tenants, ids = append(tenants, a.tenant), append(ids, a.id)
		lates, noSuccesses = append(lates, slices.Contains(a.told, late)), append(noSuccesses, slices.Contains(a.told, noSuccess))
	}
	_, err := tx.Exec(ctx, `
		UPDATE schedules s SET late_alert_at = CASE WHEN a.late THEN now() ELSE s.late_alert_at END,
			success_alert_at = CASE WHEN a.no_success THEN now() ELSE s.success_alert_at END
		FROM unnest($1::text[], $2::text[], $3::bool[], $4::bool[]) AS a (tenant, id, late, no_success)
		WHERE s.tenant = a.tenant AND s.id = a.id::uuid AND (a.late OR a.no_success)`, tenants, ids, lates, noSuccesses)
	return err
}
