package schedule

import (
	"context"

	"plinth/internal/pg"
)

// sweepBatch is how many rows one transaction removes.
const sweepBatch = 1000

// retention lists what is removed and when. expired is a query that returns the ctids of up to $1 rows and locks them. Rows that
// others have locked are left for the next sweep. A schedule's oldest runs are looked at, few at a time, so that a sweep costs little
// for one whose runs are to stay.
var retention = []struct{ what, table, expired string }{
	{"runs that are too many", "schedule_runs", `
		SELECT r.ctid FROM schedules s, LATERAL (
			SELECT ctid FROM schedule_runs WHERE tenant = s.tenant AND schedule_id = s.id AND n <= s.runs - s.run_max_count
				AND state NOT IN ('claimed', 'running')
			ORDER BY n LIMIT $1 FOR UPDATE SKIP LOCKED) AS r LIMIT $1`},
	{"runs that are too old", "schedule_runs", `
		SELECT ctid FROM schedule_runs WHERE ctid = ANY (ARRAY(
			SELECT r.ctid FROM schedules s, LATERAL (
				SELECT ctid, ended_at FROM schedule_runs WHERE tenant = s.tenant AND schedule_id = s.id ORDER BY n LIMIT 20) AS r
			WHERE r.ended_at < now() - s.run_max_age LIMIT $1)) AND state NOT IN ('claimed', 'running') FOR UPDATE SKIP LOCKED`},
	{"runs of deleted schedules", "schedule_runs", `
		SELECT r.ctid FROM schedule_changes c, LATERAL (
			SELECT ctid FROM schedule_runs WHERE tenant = c.tenant AND schedule_id = c.schedule_id LIMIT $1 FOR UPDATE SKIP LOCKED) AS r
		WHERE c.kind = 'delete' AND c.changed_at > now() - interval '7 days' LIMIT $1`},
	{"backfills", "schedule_backfills", `
		SELECT ctid FROM schedule_backfills WHERE created_at < now() - interval '90 days' AND ended_at IS NOT NULL LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"changes", "schedule_changes", `
		SELECT ctid FROM schedule_changes c WHERE changed_at < now() - interval '1 year' AND NOT EXISTS (
			SELECT FROM schedules s WHERE (s.tenant, s.id, s.version) = (c.tenant, c.schedule_id, c.version)) LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"trigger keys", "schedule_trigger_keys", `
		SELECT ctid FROM schedule_trigger_keys WHERE created_at < now() - interval '24 hours' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"counts of runs", "schedule_run_counts", `
		SELECT ctid FROM schedule_run_counts WHERE created_at < now() - interval '24 hours' LIMIT $1 FOR UPDATE SKIP LOCKED`},
}

// deleteExpired deletes expired rows of all tenants from a table, and returns how many it deleted.
func deleteExpired(ctx context.Context, system *pg.System, table, expired string) (int64, error) {
	tag, err := system.Exec(ctx, `DELETE FROM `+table+` WHERE ctid = ANY (ARRAY(`+expired+`))`, sweepBatch)
	return tag.RowsAffected(), err
}
