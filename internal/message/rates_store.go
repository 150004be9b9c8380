package message

import (
	"context"

	"plinth/internal/pg"
)

// addRates adds counts to the bucket that has just ended; it is called a little after the end. The rows are inserted in
// order, so that processes that write at the same time do not deadlock.
func addRates(ctx context.Context, system *pg.System, counts []count) error {
	n := len(counts)
	tenants, queues := make([]string, n), make([]string, n)
	published, delivered, acknowledged := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, c := range counts {
		tenants[i], queues[i] = c.tenant, c.queue.name
		published[i], delivered[i], acknowledged[i] = c.published, c.delivered, c.acknowledged
	}
	_, err := system.Exec(ctx, `
		INSERT INTO queue_rates AS r (tenant, queue, bucket, published, delivered, acknowledged)
		SELECT tenant, queue, date_bin('10 seconds', now() - interval '5 seconds', 'epoch'), published, delivered, acknowledged
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
			AS c (tenant, queue, published, delivered, acknowledged)
		ORDER BY tenant, queue
		ON CONFLICT (tenant, queue, bucket) DO UPDATE SET published = r.published + excluded.published,
			delivered = r.delivered + excluded.delivered, acknowledged = r.acknowledged + excluded.acknowledged`,
		tenants, queues, published, delivered, acknowledged)
	return err
}
