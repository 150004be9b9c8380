package message

import (
	"context"

	"plinth/internal/pg"
)

// sweepBatch is how many rows one transaction removes.
const sweepBatch = 1000

// retention lists what is removed and when. expired is a query that returns the ctids of up to $1 rows and locks them.
// Rows that others have locked are left for the next sweep.
var retention = []struct{ what, table, expired string }{
	{"dead letters", "dead_letters", `
		SELECT d.ctid FROM queues q, LATERAL (
			SELECT ctid FROM dead_letters WHERE tenant = q.tenant AND queue = q.name AND last_failed_at < now() - q.dead_letter_retention
			ORDER BY last_failed_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS d LIMIT $1`},
	{"idempotency keys", "message_keys", `
		SELECT ctid FROM message_keys WHERE created_at < now() - interval '24 hours' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"handled messages", "message_handled", `
		SELECT ctid FROM message_handled WHERE handled_at < now() - interval '14 days' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"what dry runs chose", "dead_letter_operation_items", `
		SELECT i.ctid FROM dead_letter_operations o, LATERAL (
			SELECT ctid FROM dead_letter_operation_items WHERE tenant = o.tenant AND operation_id = o.id
			ORDER BY n LIMIT $1 FOR UPDATE SKIP LOCKED) AS i
		WHERE state = 'planned' AND created_at < now() - interval '1 hour' LIMIT $1`},
	{"dry runs", "dead_letter_operations", `
		SELECT ctid FROM dead_letter_operations o
		WHERE state = 'planned' AND created_at < now() - interval '1 hour' AND NOT EXISTS (
			SELECT FROM dead_letter_operation_items i WHERE i.tenant = o.tenant AND i.operation_id = o.id)
		LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"redrives and purges", "dead_letter_operations", `
		SELECT ctid FROM dead_letter_operations
		WHERE state = 'done' AND ended_at < now() - interval '90 days' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"back-offs", "message_backoffs", `
		SELECT ctid FROM message_backoffs WHERE until < now() - interval '1 hour' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"deliveries that do not count", "message_uncounted", `
		SELECT ctid FROM message_uncounted WHERE noted_at < now() - interval '30 days' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"depths of queues", "queue_depths", `
		SELECT ctid FROM queue_depths WHERE measured_at < now() - interval '1 hour' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"workers that are gone", "message_workers", `
		SELECT ctid FROM message_workers WHERE seen_at < now() - interval '1 hour' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"figures of pushes", "queue_pushes", `
		SELECT ctid FROM queue_pushes WHERE written_at < now() - interval '7 days' LIMIT $1 FOR UPDATE SKIP LOCKED`},
	{"rates", "queue_rates", `
		SELECT ctid FROM queue_rates WHERE bucket < now() - interval '10 minutes' LIMIT $1 FOR UPDATE SKIP LOCKED`},
}

// deleteExpired deletes expired rows of all tenants from a table, and returns how many it deleted.
func deleteExpired(ctx context.Context, system *pg.System, table, expired string) (int64, error) {
	tag, err := system.Exec(ctx, `DELETE FROM `+table+` WHERE ctid = ANY (ARRAY(`+expired+`))`, sweepBatch)
	return tag.RowsAffected(), err
}
