package schedule

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// sealBatch is how many definitions one transaction looks at.
const sealBatch = 100

// sealedRow is a definition with an HTTP request, in schedules or in schedule_changes.
type sealedRow struct {
	tenant, id string
	definition Definition
}

// lockSealed locks definitions with HTTP requests that come after one, in the order of tenants and ids.
func lockSealed(ctx context.Context, tx *pg.Tx, table string, after sealedRow, limit int) ([]sealedRow, error) {
	rows, err := tx.Query(ctx, `SELECT tenant, id::text, definition FROM `+table+`
		WHERE definition #> '{action,http}' IS NOT NULL
			AND (tenant, id) > ($1, coalesce(nullif($2, '')::uuid, '00000000-0000-0000-0000-000000000000'))
		ORDER BY tenant, `+table+`.id LIMIT $3 FOR NO KEY UPDATE`, after.tenant, after.id, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r sealedRow, err error) {
		var definition []byte
		if err := row.Scan(&r.tenant, &r.id, &definition); err != nil {
			return r, err
		}
		return r, json.Unmarshal(definition, &r.definition)
	})
}

func updateSealed(ctx context.Context, tx *pg.Tx, table string, r sealedRow) error {
	encoded, err := json.Marshal(r.definition)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE `+table+` SET definition = $3 WHERE tenant = $1 AND id = $2::uuid`, r.tenant, r.id, string(encoded))
	return err
}
