package message

import (
	"context"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// selectLimited returns how many of the queues there are, and how many of them have a max_length.
func selectLimited(ctx context.Context, db pg.Querier, queues []QueueName) (there, limited int, err error) {
	names := make([]string, len(queues))
	for i, q := range queues {
		names[i] = q.name
	}
	err = db.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE max_length > 0) FROM queues WHERE tenant = $1 AND name = ANY ($2)`,
		auth.TenantOf(ctx), names).Scan(&there, &limited)
	return there, limited, err
}
