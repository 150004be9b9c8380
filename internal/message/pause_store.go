package message

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// selectPaused returns the queues of all tenants that are paused, and those that the broker has yet to remove: nothing is
// delivered of either.
func selectPaused(ctx context.Context, system *pg.System) ([]owned, error) {
	return collectOwned(system.Query(ctx, `SELECT tenant, name FROM queues WHERE paused
		UNION SELECT tenant, queue FROM queue_intents WHERE remove`))
}

// selectNamed gives the queues of all tenants that have one of the names.
func selectNamed(ctx context.Context, system *pg.System, names []string) ([]owned, error) {
	return collectOwned(system.Query(ctx, `SELECT tenant, name FROM queues WHERE name = ANY ($1)`, names))
}

func collectOwned(rows pgx.Rows, err error) ([]owned, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (q owned, err error) {
		err = row.Scan(&q.tenant, &q.queue.name)
		return q, err
	})
}
