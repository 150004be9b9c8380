package message

import (
	"context"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// deleteBatch is how many rows go in one statement.
const deleteBatch = 1000

// beside are the rows beside a queue's own and its bindings, the records of redrives and purges left out. They are found by their
// keys alone, whatever the planner knows of the tables. Rows that somebody has locked are waited for.
var beside = []string{
	`DELETE FROM message_waiting WHERE tenant = $1 AND queue = $2 AND id = ANY (ARRAY(
		SELECT id FROM message_waiting WHERE tenant = $1 AND queue = $2 LIMIT $3))`,
	`DELETE FROM dead_letters WHERE tenant = $1 AND queue = $2 AND id = ANY (ARRAY(
		SELECT id FROM dead_letters WHERE tenant = $1 AND queue = $2 LIMIT $3))`,
	`DELETE FROM message_keys WHERE tenant = $1 AND destination = $2 AND key = ANY (ARRAY(
		SELECT key FROM message_keys WHERE tenant = $1 AND destination = $2 LIMIT $3))`,
	`DELETE FROM queue_rates WHERE tenant = $1 AND queue = $2 AND bucket = ANY (ARRAY(
		SELECT bucket FROM queue_rates WHERE tenant = $1 AND queue = $2 LIMIT $3))`,
}

// deleteBeside removes some of what stands beside a queue, and returns how much.
func deleteBeside(ctx context.Context, tx *pg.Tx, queue QueueName) (deleted int64, err error) {
	for _, statement := range beside {
		tag, err := tx.Exec(ctx, statement, auth.TenantOf(ctx), queue.name, deleteBatch)
		if err != nil {
			return deleted, err
		}
		deleted += tag.RowsAffected()
	}
	return deleted, nil
}

// stays is the condition for what is not of a queue that was deleted.
const stays = `queue NOT IN (SELECT queue FROM queue_intents WHERE tenant = $1 AND remove)`
