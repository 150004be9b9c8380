package pg

import (
	"context"

	"github.com/google/uuid"
)

// Identity returns what tells this database from any other. It never changes, and a database that is restored from a backup has the
// one of before.
func Identity(ctx context.Context, system *System) (id uuid.UUID, err error) {
	err = system.InTx(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO identities DEFAULT VALUES ON CONFLICT DO NOTHING`); err != nil {
			return err
		}
		var text string
		if err := tx.QueryRow(ctx, `SELECT id::text FROM identities`).Scan(&text); err != nil {
			return err
		}
		id, err = uuid.Parse(text)
		return err
	})
	return id, err
}
