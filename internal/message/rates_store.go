package message

import (
	"context"

	"plinth/internal/pg"
)

// bucketOf returns the SQL for the bucket of a time. PostgreSQL 13 has no date_bin.
func bucketOf(time string) string {
	return `to_timestamp(floor(extract(epoch FROM ` + time + `) / 10) * 10)`
}

// addRates adds counts to the bucket that has just ended; it is called a little after the end. The rows are inserted in
// order, so that processes that write at the same time do not deadlock.
func addRates(ctx context.Context, system *pg.System, counts []count) error {
	n := len(counts)
	tenants, queues := make([]string, n), make([]string, n)
	published, delivered, acknowledged, outstanding := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, c := range counts {
		tenants[i], queues[i] = c.tenant, c.queue.name
		published[i], delivered[i], acknowledged[i], outstanding[i] = c.published, c.delivered, c.acknowledged, c.outstanding
	}
	_, err := system.Exec(ctx, `
		INSERT INTO queue_rates AS r (tenant, queue, bucket, published, delivered, acknowledged, outstanding)
		SELECT tenant, queue, `+bucketOf(`now() - interval '5 seconds'`)+`, published, delivered, acknowledged, outstanding
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
			AS c (tenant, queue, published, delivered, acknowledged, outstanding)
		ORDER BY tenant, queue
		ON CONFLICT (tenant, queue, bucket) DO UPDATE SET published = r.published + excluded.published,
			delivered = r.delivered + excluded.delivered, acknowledged = r.acknowledged + excluded.acknowledged,
			outstanding = r.outstanding + excluded.outstanding`,
		tenants, queues, published, delivered, acknowledged, outstanding)
	return err
}
