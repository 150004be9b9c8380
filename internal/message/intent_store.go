package message

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// insertIntent inserts an intent that is due after lease. It merges an existing intent of the same queue; if the process
// of that one may still be working on it, the new intent is looked at again later.
func insertIntent(ctx context.Context, tx *pg.Tx, i intent, lease time.Duration) error {
	topics, patterns := make([]string, len(i.ended)), make([]string, len(i.ended))
	for n, b := range i.ended {
		topics[n], patterns[n] = b.Topic, b.Pattern
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO queue_intents AS i (tenant, queue, token, due_at, remove, again, topics, patterns)
		VALUES ($1, $2, $3::uuid, clock_timestamp() + $4::interval, $5, $6, $7, $8)
		ON CONFLICT (tenant, queue) DO UPDATE SET token = excluded.token, due_at = excluded.due_at, failures = 0,
			remove = i.remove OR excluded.remove, again = i.token <> excluded.token OR i.again OR excluded.again,
			topics = i.topics || excluded.topics, patterns = i.patterns || excluded.patterns`,
		auth.TenantOf(ctx), i.queue.name, i.token, lease, i.remove, i.again, topics, patterns)
	return err
}

// settleIntent deletes an intent that was carried out, unless another process has taken it over. If it has to be looked
// at again, it is kept without remove: by then there is nothing left to remove.
func settleIntent(ctx context.Context, db pg.Querier, i intent) error {
	_, err := db.Exec(ctx, `
		WITH settled AS (
			DELETE FROM queue_intents WHERE tenant = $1 AND queue = $2 AND token = $3::uuid AND NOT again
		)
		UPDATE queue_intents SET again = false, remove = false, due_at = clock_timestamp() + $4::interval
		WHERE tenant = $1 AND queue = $2 AND token = $3::uuid AND again`, auth.TenantOf(ctx), i.queue.name, i.token, intentLease)
	return err
}

// isBeingRemoved reports whether something is left of a deleted queue.
func isBeingRemoved(ctx context.Context, tx *pg.Tx, queue QueueName) (removing bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM queue_intents WHERE tenant = $1 AND queue = $2 AND remove)`,
		auth.TenantOf(ctx), queue.name).Scan(&removing)
	return removing, err
}

// hasIntents reports whether the broker has yet to follow anything of the tenant's queues, or is to be looked at once more.
func hasIntents(ctx context.Context, db pg.Querier) (has bool, err error) {
	err = db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM queue_intents WHERE tenant = $1)`, auth.TenantOf(ctx)).Scan(&has)
	return has, err
}

// lockIntent reports whether no other process has taken over the intent, and prevents that until the transaction ends.
func lockIntent(ctx context.Context, tx *pg.Tx, i intent) (mine bool, err error) {
	tag, err := tx.Exec(ctx, `SELECT FROM queue_intents WHERE tenant = $1 AND queue = $2 AND token = $3::uuid FOR UPDATE`,
		auth.TenantOf(ctx), i.queue.name, i.token)
	return tag.RowsAffected() > 0, err
}

func deleteIntent(ctx context.Context, tx *pg.Tx, i intent) error {
	_, err := tx.Exec(ctx, `DELETE FROM queue_intents WHERE tenant = $1 AND queue = $2`, auth.TenantOf(ctx), i.queue.name)
	return err
}

// continueIntent makes an intent that is not finished due at once, for any process, unless another process has taken it
// over.
func continueIntent(ctx context.Context, db pg.Querier, i intent) error {
	_, err := db.Exec(ctx, `UPDATE queue_intents SET due_at = clock_timestamp(), failures = 0
		WHERE tenant = $1 AND queue = $2 AND token = $3::uuid`, auth.TenantOf(ctx), i.queue.name, i.token)
	return err
}

// postponeIntent delays an intent that failed, unless another process has taken it over.
func postponeIntent(ctx context.Context, db pg.Querier, i intent, delay time.Duration) error {
	_, err := db.Exec(ctx, `UPDATE queue_intents SET due_at = clock_timestamp() + $4::interval, failures = failures + 1
		WHERE tenant = $1 AND queue = $2 AND token = $3::uuid`, auth.TenantOf(ctx), i.queue.name, i.token, delay)
	return err
}

// tenantIntent is an intent of one tenant.
type tenantIntent struct {
	tenant string
	intent
}

// claimIntents takes over intents of all tenants that are due, for the duration of the lease.
func claimIntents(ctx context.Context, tx *pg.Tx, limit int, lease time.Duration) ([]tenantIntent, error) {
	rows, err := tx.Query(ctx, `
		UPDATE queue_intents i SET token = gen_random_uuid(), due_at = clock_timestamp() + $2::interval
		FROM (SELECT tenant, queue FROM queue_intents WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS due
		WHERE (i.tenant, i.queue) = (due.tenant, due.queue)
		RETURNING i.tenant, i.queue, i.token::text, i.failures, i.remove, i.again, i.topics, i.patterns`, limit, lease)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (i tenantIntent, err error) {
		var topics, patterns []string
		err = row.Scan(&i.tenant, &i.queue.name, &i.token, &i.failures, &i.remove, &i.again, &topics, &patterns)
		for n := range topics {
			i.ended = append(i.ended, Binding{topics[n], patterns[n]})
		}
		return i, err
	})
}

// intentsLate is for how long the earliest intent has been due. The result is negative if it is not due yet or there is none.
const intentsLate = `SELECT coalesce(now() - min(due_at), '-1 hour') FROM queue_intents`

func selectIntentsLate(ctx context.Context, system *pg.System) (late time.Duration, err error) {
	err = system.QueryRow(ctx, intentsLate).Scan(&late)
	return late, err
}
