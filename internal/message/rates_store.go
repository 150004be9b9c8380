package message

import (
	"context"

	"plinth/internal/pg"
)

// addRates adds counts to the bucket that is just over: now is a little after its end. The queues are in order, so that
// processes that write at the same time do not lock each other out.
func addRates(ctx context.Context, db pg.Querier, counts []count) error {
	n := len(counts)
	queues, published, delivered, acknowledged := make([]string, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, c := range counts {
		queues[i], published[i], delivered[i], acknowledged[i] = c.queue.name, c.published, c.delivered, c.acknowledged
	}
	_, err := db.Exec(ctx, `
		INSERT INTO queue_rates AS r (tenant, queue, bucket, published, delivered, acknowledged)
		SELECT $1, queue, date_bin('10 seconds', now() - interval '5 seconds', 'epoch'), published, delivered, acknowledged
		FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS c (queue, published, delivered, acknowledged)
		ORDER BY queue
		ON CONFLICT (tenant, queue, bucket) DO UPDATE SET published = r.published + excluded.published,
			delivered = r.delivered + excluded.delivered, acknowledged = r.acknowledged + excluded.acknowledged`,
		tenant, queues, published, delivered, acknowledged)
	return err
}
