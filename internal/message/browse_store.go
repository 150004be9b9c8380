package message

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// selectQueued returns a page of the rows of message_waiting for a queue: those that were pulled, or all others. A page has at most
// size messages, and no more than maxPageBytes unless the first one alone is larger.
func selectQueued(ctx context.Context, db pg.Querier, queue QueueName, pulled bool, after position, size int) (list []QueuedMessage, more bool, err error) {
	rows, err := db.Query(ctx, `
		WITH found AS (
			SELECT id, due_at, octet_length(body) + octet_length(attributes::text) + octet_length(reason) AS bytes FROM message_waiting
			WHERE tenant = $1 AND queue = $2 AND topic = '' AND (lease IS NOT NULL) = $3
				AND (due_at, id) > (coalesce($4::timestamptz, '-infinity'), $5::uuid)
			ORDER BY due_at, id LIMIT $6 + 1
		), page AS (
			SELECT id FROM (SELECT id, row_number() OVER list AS n, sum(bytes) OVER list AS bytes FROM found WINDOW list AS (ORDER BY due_at, id)) AS counted
			WHERE n = 1 OR n <= $6 AND bytes <= $7
		)
		SELECT id::text, attempts, reason, due_at, attributes, body, (SELECT count(*) FROM found) > (SELECT count(*) FROM page)
		FROM message_waiting WHERE tenant = $1 AND queue = $2 AND topic = '' AND id = ANY (ARRAY(SELECT id FROM page)) ORDER BY due_at, id`,
		auth.TenantOf(ctx), queue.name, pulled, unlessZero(after.lastFailedAt), after.id.String(), size, maxPageBytes)
	if err != nil {
		return nil, false, err
	}
	list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m QueuedMessage, err error) {
		err = row.Scan(&m.ID, &m.Attempts, &m.Reason, &m.DueAt, &m.Attributes, &m.Body, &more)
		return m, err
	})
	return list, more, err
}
