package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/broker"
	"plinth/internal/pg"
)

// browseMessages returns a page of what waits in a queue. The size of a body is determined without reading it.
func browseMessages(ctx context.Context, db pg.Querier, queue, behind int64, limit, bytes int) (list []broker.Browsed, more bool, err error) {
	rows, err := db.Query(ctx, `
		WITH found AS (
			SELECT seq, octet_length(body) + octet_length(attributes::text) AS bytes FROM broker_messages m
			WHERE m.queue_id = $1 AND m.seq > $2 AND `+waits+` ORDER BY seq LIMIT $3 + 1
		), page AS (
			SELECT seq FROM (SELECT seq, row_number() OVER list AS n, sum(bytes) OVER list AS bytes FROM found WINDOW list AS (ORDER BY seq)) AS counted
			WHERE n = 1 OR n <= $3 AND bytes <= $4
		)
		SELECT seq, id::text, headers, attributes, body, attempt, (SELECT count(*) FROM found) > (SELECT count(*) FROM page)
		FROM broker_messages WHERE queue_id = $1 AND seq = ANY (ARRAY(SELECT seq FROM page)) ORDER BY seq`, queue, behind, limit, bytes)
	if err != nil {
		return nil, false, err
	}
	list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m broker.Browsed, err error) {
		err = row.Scan(&m.Place, &m.ID, &m.Headers, &m.Attributes, &m.Body, &m.Attempts, &more)
		return m, err
	})
	return list, more, err
}
