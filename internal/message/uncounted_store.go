package message

import (
	"context"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// stay is the time that a message spends in a queue between two waits.
type stay struct {
	id      string
	earlier int // attempts when it came to the queue
}

// insertUncounted notes for each stay that one more of its deliveries was given to nobody.
func insertUncounted(ctx context.Context, db pg.Querier, queue QueueName, stays []stay) error {
	ids, earlier := stayArrays(stays)
	_, err := db.Exec(ctx, `
		INSERT INTO message_uncounted AS u (tenant, queue, message_id, earlier, n)
		SELECT $1, $2, id, earlier, count(*) FROM unnest($3::text[], $4::int[]) AS s (id, earlier) GROUP BY id, earlier ORDER BY id, earlier
		ON CONFLICT (tenant, queue, message_id, earlier) DO UPDATE SET n = u.n + excluded.n, noted_at = now()`,
		auth.TenantOf(ctx), queue.name, ids, earlier)
	return err
}

// selectUncounted returns how many deliveries of a stay were given to nobody.
func selectUncounted(ctx context.Context, db pg.Querier, queue QueueName, s stay) (n int, err error) {
	err = db.QueryRow(ctx, `
		SELECT coalesce(sum(n), 0) FROM message_uncounted WHERE tenant = $1 AND queue = $2 AND message_id = $3 AND earlier = $4`,
		auth.TenantOf(ctx), queue.name, pg.Text(s.id), s.earlier).Scan(&n)
	return n, err
}

// deleteUncounted forgets the deliveries of a stay that has ended.
func deleteUncounted(ctx context.Context, db pg.Querier, queue QueueName, s stay) error {
	_, err := db.Exec(ctx, `DELETE FROM message_uncounted WHERE tenant = $1 AND queue = $2 AND message_id = $3 AND earlier = $4`,
		auth.TenantOf(ctx), queue.name, pg.Text(s.id), s.earlier)
	return err
}

func stayArrays(stays []stay) (ids []string, earlier []int32) {
	for _, s := range stays {
		ids, earlier = append(ids, pg.Text(s.id)), append(earlier, int32(s.earlier))
	}
	return ids, earlier
}
