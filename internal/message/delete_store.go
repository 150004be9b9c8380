package message

import (
	"context"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// deleteBatch is how many rows one statement deletes.
const deleteBatch = 1000

// beside are the statements that delete the rows which refer to a queue, except its own row, its bindings and the records
// of redrives and purges. They find the rows by their keys alone, whatever statistics the planner has of the tables. They
// wait for rows that others have locked.
var beside = []string{
	`DELETE FROM message_waiting WHERE tenant = $1 AND queue = $2 AND id = ANY (ARRAY(
		SELECT id FROM message_waiting WHERE tenant = $1 AND queue = $2 LIMIT $3))`,
	`DELETE FROM dead_letters WHERE tenant = $1 AND queue = $2 AND id = ANY (ARRAY(
		SELECT id FROM dead_letters WHERE tenant = $1 AND queue = $2 LIMIT $3))`,
	`DELETE FROM message_keys WHERE tenant = $1 AND destination = $2 AND key = ANY (ARRAY(
		SELECT key FROM message_keys WHERE tenant = $1 AND destination = $2 LIMIT $3))`,
	`DELETE FROM message_uncounted WHERE tenant = $1 AND queue = $2 AND message_id = ANY (ARRAY(
		SELECT message_id FROM message_uncounted WHERE tenant = $1 AND queue = $2 LIMIT $3))`,
	`DELETE FROM queue_rates WHERE tenant = $1 AND queue = $2 AND bucket = ANY (ARRAY(
		SELECT bucket FROM queue_rates WHERE tenant = $1 AND queue = $2 LIMIT $3))`,
}

// deleteBeside removes a batch of the rows that refer to a queue, and returns how many it removed.
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

// stays is the condition for rows that do not belong to a deleted queue.
const stays = `queue NOT IN (SELECT queue FROM queue_intents WHERE tenant = $1 AND remove)`
