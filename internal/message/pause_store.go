package message

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// selectPaused returns the queues of all tenants that are paused, and those that the broker still has to remove. Nothing
// is delivered from either.
func selectPaused(ctx context.Context, system *pg.System) ([]tenantQueue, error) {
	return collectQueues(system.Query(ctx, `SELECT tenant, name FROM queues WHERE paused
		UNION SELECT tenant, queue FROM queue_intents WHERE remove`))
}

// selectPausedOne is selectPaused for one queue.
func selectPausedOne(ctx context.Context, system *pg.System, q tenantQueue) (paused bool, err error) {
	err = system.QueryRow(ctx, `SELECT EXISTS (SELECT FROM queues WHERE tenant = $1 AND name = $2 AND paused)
		OR EXISTS (SELECT FROM queue_intents WHERE tenant = $1 AND queue = $2 AND remove)`, q.tenant, q.queue.name).Scan(&paused)
	return paused, err
}

// selectNamed returns the queues of all tenants that have one of the names.
func selectNamed(ctx context.Context, system *pg.System, names []string) ([]tenantQueue, error) {
	return collectQueues(system.Query(ctx, `SELECT tenant, name FROM queues WHERE name = ANY ($1)`, names))
}

func collectQueues(rows pgx.Rows, err error) ([]tenantQueue, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (q tenantQueue, err error) {
		err = row.Scan(&q.tenant, &q.queue.name)
		return q, err
	})
}
