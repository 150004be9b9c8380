package message

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// selectPaused gives the queues that are paused.
func selectPaused(ctx context.Context, db pg.Querier) ([]QueueName, error) {
	rows, err := db.Query(ctx, `SELECT name FROM queues WHERE tenant = $1 AND paused ORDER BY name`, tenant)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (q QueueName, err error) {
		err = row.Scan(&q.name)
		return q, err
	})
}
