package tenant

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// selectUsed returns how much there is of each resource, of all tenants.
func selectUsed(ctx context.Context, db *pg.System) (map[string]int64, error) {
	rows, err := db.Query(ctx, `SELECT resource, sum(n)::bigint FROM tenant_usage GROUP BY resource`)
	if err != nil {
		return nil, err
	}
	used := map[string]int64{}
	var resource string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&resource, &n}, func() error {
		used[resource] = n
		return nil
	})
	return used, err
}
