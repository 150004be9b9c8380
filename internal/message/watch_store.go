package message

import (
	"context"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// selectOutstanding returns how many messages of a queue the streams and handlers of all processes held when the last bucket ended.
func selectOutstanding(ctx context.Context, db pg.Querier, queue QueueName) (n int64, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce(sum(outstanding), 0)::bigint FROM queue_rates
		WHERE tenant = $1 AND queue = $2 AND bucket = `+bucketOf(`now()`)+` - interval '10 seconds'`, auth.TenantOf(ctx), queue.name).Scan(&n)
	return n, err
}
