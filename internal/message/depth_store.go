package message

import (
	"context"

	"plinth/internal/pg"
)

// selectQueuesBehind returns up to limit queues of all tenants, those that come after the given one.
func selectQueuesBehind(ctx context.Context, system *pg.System, after tenantQueue, limit int) ([]tenantQueue, error) {
	return collectQueues(system.Query(ctx, `SELECT tenant, name FROM queues WHERE (tenant, name) > ($1, $2) ORDER BY tenant, name LIMIT $3`,
		after.tenant, after.queue.name, limit))
}

// upsertDepths writes how many messages wait in queues. Queues that are gone are left away, and so is what has not changed, unless it would
// soon be taken for outdated.
func upsertDepths(ctx context.Context, system *pg.System, depths map[tenantQueue]int64) error {
	var tenants, queues []string
	var messages []int64
	for q, n := range depths {
		tenants, queues, messages = append(tenants, q.tenant), append(queues, q.queue.name), append(messages, n)
	}
	_, err := system.Exec(ctx, `
		INSERT INTO queue_depths AS d (tenant, queue, messages)
		SELECT m.tenant, m.queue, m.messages FROM unnest($1::text[], $2::text[], $3::bigint[]) AS m (tenant, queue, messages)
		WHERE EXISTS (SELECT FROM queues q WHERE (q.tenant, q.name) = (m.tenant, m.queue) FOR KEY SHARE)
		ORDER BY m.tenant, m.queue
		ON CONFLICT (tenant, queue) DO UPDATE SET messages = excluded.messages, measured_at = now()
		WHERE d.messages <> excluded.messages OR d.measured_at < now() - interval '10 minutes'`, tenants, queues, messages)
	return err
}
