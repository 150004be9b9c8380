package message

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// lockPolicy returns the part of a queue's policy that applies to failed attempts, and the time of the database. The
// queue cannot be deleted until the transaction ends. relaxed has the commit not wait for the disk.
func lockPolicy(ctx context.Context, tx *pg.Tx, queue QueueName, relaxed bool) (p Policy, now time.Time, err error) {
	err = tx.QueryRow(ctx, `
		SELECT max_attempts, min_backoff, max_backoff, now(), CASE WHEN $3 THEN set_config('synchronous_commit', 'off', true) END FROM queues
		WHERE tenant = $1 AND name = $2 FOR KEY SHARE`, auth.TenantOf(ctx), queue.name, relaxed).
		Scan(&p.MaxAttempts, &p.MinBackoff, &p.MaxBackoff, &now, nil)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errNoQueue(queue)
	}
	return p, now, err
}

// selectMaxAttempts returns how often a queue's messages are tried.
func selectMaxAttempts(ctx context.Context, db pg.Querier, queue QueueName) (n int, err error) {
	err = db.QueryRow(ctx, `SELECT max_attempts FROM queues WHERE tenant = $1 AND name = $2`, auth.TenantOf(ctx), queue.name).Scan(&n)
	return n, err
}
