package channel

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// ensureSecret returns the secret of the tenant of ctx, which is fresh if there was none.
func ensureSecret(ctx context.Context, db *pg.DB, tenant string, fresh []byte) (secret []byte, err error) {
	err = db.QueryRow(ctx, `SELECT secret FROM channel_secrets WHERE tenant = $1`, tenant).Scan(&secret)
	if errors.Is(err, pgx.ErrNoRows) { // Another process may insert one meanwhile.
		err = db.QueryRow(ctx, `
			INSERT INTO channel_secrets AS s (tenant, secret) VALUES ($1, $2)
			ON CONFLICT (tenant) DO UPDATE SET secret = s.secret RETURNING secret`, tenant, fresh).Scan(&secret)
	}
	return secret, err
}
