package message

import (
	"context"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// insertHandled records that a consumer handled a message. first is false if that is recorded already. If another
// transaction is about to record it, insertHandled waits until that one ends.
func insertHandled(ctx context.Context, tx *pg.Tx, consumer, id string) (first bool, err error) {
	tag, err := tx.Exec(ctx, `INSERT INTO message_handled (tenant, consumer, message_id) VALUES ($1, $2, $3::uuid)
		ON CONFLICT DO NOTHING`, auth.TenantOf(ctx), consumer, id)
	return tag.RowsAffected() == 1, err
}
