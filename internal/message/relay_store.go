package message

import (
	"context"
	"time"

	"plinth/internal/pg"
)

// claimWaiting takes messages that are due out of the table, of all tenants, those that have been longest first and none
// that another relay has: up to limit, and no more once they have so many bytes. size is how many they have. Losing the
// commit in a crash of the server would only have them sent again, so it does not wait for the disk.
func claimWaiting(ctx context.Context, system pg.Querier, limit, bytes int) (batch []*waiting, size int, err error) {
	// The rows are found again by their place: the table is empty one moment and full the next, so the planner's idea of it
	// is often wrong, and by the key it may choose an index that reads every row of a queue for each.
	rows, err := system.Query(ctx, `
		WITH due AS (
			SELECT ctid, due_at, octet_length(body) + octet_length(attributes::text) AS size
			FROM message_waiting WHERE due_at <= now() ORDER BY due_at LIMIT $1
			FOR UPDATE SKIP LOCKED
		), fit AS (
			SELECT ctid FROM (SELECT *, sum(size) OVER (ORDER BY due_at, ctid) - size AS before FROM due) AS d WHERE before < $2
		), claimed AS (
			DELETE FROM message_waiting w USING (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed
			WHERE w.ctid = ANY (ARRAY(SELECT ctid FROM fit))
			RETURNING w.tenant, w.id, w.queue, w.topic, w.routing_key, w.due_at, w.attempts, w.reason, w.first_failed_at,
				w.headers, w.attributes, w.body
		)
		SELECT tenant, id::text, queue, topic, routing_key, attempts, reason, first_failed_at, headers, attributes, body,
			octet_length(body) + octet_length(attributes::text)
		FROM claimed ORDER BY due_at, id`, limit, bytes)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		m := &waiting{}
		var failed *time.Time
		var n int
		if err := rows.Scan(&m.tenant, &m.id, &m.to.queue.name, &m.to.topic, &m.to.routingKey, &m.attempts, &m.reason, &failed,
			&m.headers, &m.attributes, &m.body, &n); err != nil {
			return nil, 0, err
		}
		if failed != nil {
			m.firstFailedAt = *failed
		}
		batch, size = append(batch, m), size+n
	}
	return batch, size, rows.Err()
}

// selectUntilDue gives the time until the next message of any tenant comes due; an hour where none will.
func selectUntilDue(ctx context.Context, system pg.Querier) (wait time.Duration, err error) {
	err = system.QueryRow(ctx, `SELECT coalesce(min(due_at) - now(), '1 hour') FROM message_waiting WHERE due_at > now()`).Scan(&wait)
	return wait, err
}
