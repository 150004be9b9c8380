package message

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// selectFigures returns the figures of the oldest queues, and those of all queues and topics together. Each queue takes a few
// index lookups, and counts end at maxCounted, so that a queue with millions of messages costs no more than others.
func selectFigures(ctx context.Context, db *pg.System) (queues []figures, all figures, err error) {
	rows, err := db.Query(ctx, `
		WITH named AS (SELECT tenant, name FROM queues ORDER BY created_at, tenant, name LIMIT $1)
		SELECT tenant, name,
			(SELECT count(*) FROM (SELECT FROM message_waiting w WHERE w.tenant = n.tenant AND w.queue = n.name LIMIT $2) AS c),
			(SELECT count(*) FROM (SELECT FROM dead_letters d WHERE d.tenant = n.tenant AND d.queue = n.name LIMIT $2) AS c),
			coalesce(now() - (SELECT min(due_at) FROM message_waiting w WHERE (w.tenant, w.queue, w.topic) = (n.tenant, n.name, '')), '0')
		FROM named n`, maxMeasured, maxCounted)
	if err != nil {
		return nil, all, err
	}
	queues, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (f figures, err error) {
		err = row.Scan(&f.tenant, &f.queue.name, &f.waiting, &f.deadLetters, &f.overdue)
		return f, err
	})
	if err != nil {
		return nil, all, err
	}
	err = db.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM (SELECT FROM message_waiting LIMIT $1) AS c), (SELECT count(*) FROM (SELECT FROM dead_letters LIMIT $1) AS c),
			(`+waitingLate+`)`, maxMeasured*maxCounted/10).Scan(&all.waiting, &all.deadLetters, &all.overdue)
	return queues, all, err
}
