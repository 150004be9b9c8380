package message

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// queueColumns are the columns that scanQueue reads, which leaves the secrets of a push away.
const queueColumns = `name, created_at, max_attempts, min_backoff, max_backoff, message_ttl, max_length,
	dead_letter_retention, paused, push::text,
	ARRAY(SELECT topic FROM queue_bindings b WHERE (b.tenant, b.queue) = (queues.tenant, queues.name) ORDER BY topic, pattern),
	ARRAY(SELECT pattern FROM queue_bindings b WHERE (b.tenant, b.queue) = (queues.tenant, queues.name) ORDER BY topic, pattern)`

func scanQueue(row pgx.Row) (q Queue, err error) {
	var topics, patterns []string
	var push pgtype.Text
	err = row.Scan(&q.Name.name, &q.CreatedAt, &q.MaxAttempts, &q.MinBackoff, &q.MaxBackoff, &q.MessageTTL, &q.MaxLength,
		&q.DeadLetterRetention, &q.Paused, &push, &topics, &patterns)
	if err != nil {
		return q, err
	}
	for i := range topics {
		q.Bindings = append(q.Bindings, Binding{topics[i], patterns[i]})
	}
	sealed, err := decodePush(push)
	q.Push = sealed.shown("")
	return q, err
}

// insertQueue inserts the rows of a queue and its bindings, with a push that is sealed. created is false if the queue exists already.
func insertQueue(ctx context.Context, db *pg.Tx, name QueueName, p Policy) (created bool, err error) {
	push, err := encodePush(p.Push)
	if err != nil {
		return false, err
	}
	tag, err := db.Exec(ctx, `
		INSERT INTO queues (tenant, name, max_attempts, min_backoff, max_backoff, message_ttl, max_length, dead_letter_retention, push)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, name) DO NOTHING`,
		auth.TenantOf(ctx), name.name, p.MaxAttempts, p.MinBackoff, p.MaxBackoff, p.MessageTTL, p.MaxLength, p.DeadLetterRetention, push)
	if err != nil || tag.RowsAffected() == 0 {
		return false, err
	}
	return true, insertBindings(ctx, db, name, p.Bindings)
}

// updatePolicy updates the parts of a policy that can be changed, but for its push.
func updatePolicy(ctx context.Context, db *pg.Tx, name QueueName, p Policy) error {
	_, err := db.Exec(ctx, `UPDATE queues
		SET max_attempts = $3, min_backoff = $4, max_backoff = $5, dead_letter_retention = $6 WHERE tenant = $1 AND name = $2`,
		auth.TenantOf(ctx), name.name, p.MaxAttempts, p.MinBackoff, p.MaxBackoff, p.DeadLetterRetention)
	if err != nil {
		return err
	}
	if _, err := db.Exec(ctx, `DELETE FROM queue_bindings WHERE tenant = $1 AND queue = $2`, auth.TenantOf(ctx), name.name); err != nil {
		return err
	}
	return insertBindings(ctx, db, name, p.Bindings)
}

func insertBindings(ctx context.Context, db *pg.Tx, queue QueueName, bindings []Binding) error {
	topics, patterns := make([]string, len(bindings)), make([]string, len(bindings))
	for i, b := range bindings {
		topics[i], patterns[i] = b.Topic, b.Pattern
	}
	_, err := db.Exec(ctx, `INSERT INTO queue_bindings (tenant, queue, topic, pattern)
		SELECT $1, $2, topic, pattern FROM unnest($3::text[], $4::text[]) AS b (topic, pattern)
		ON CONFLICT DO NOTHING`, auth.TenantOf(ctx), queue.name, topics, patterns)
	return err
}

// lockQueue reports whether a queue exists, and prevents its deletion until the transaction ends.
func lockQueue(ctx context.Context, db *pg.Tx, name QueueName) (exists bool, err error) {
	tag, err := db.Exec(ctx, `SELECT true FROM queues WHERE tenant = $1 AND name = $2 FOR SHARE`, auth.TenantOf(ctx), name.name)
	return tag.RowsAffected() > 0, err
}

// lockForChange prevents others from changing or deleting a queue until the transaction ends.
func lockForChange(ctx context.Context, db *pg.Tx, name QueueName) error {
	tag, err := db.Exec(ctx, `SELECT true FROM queues WHERE tenant = $1 AND name = $2 FOR NO KEY UPDATE`, auth.TenantOf(ctx), name.name)
	if err == nil && tag.RowsAffected() == 0 {
		return errNoQueue(name)
	}
	return err
}

func selectQueue(ctx context.Context, db pg.Querier, name QueueName) (Queue, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+queueColumns+` FROM queues WHERE tenant = $1 AND name = $2`,
		auth.TenantOf(ctx), name.name), scanQueue, errNoQueue(name))
}

func selectQueues(ctx context.Context, db pg.Querier, after string, limit int) ([]Queue, error) {
	rows, err := db.Query(ctx, `SELECT `+queueColumns+` FROM queues
		WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3`, auth.TenantOf(ctx), after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Queue, error) { return scanQueue(row) })
}

// updatePaused pauses or resumes a queue and returns it as it is then.
func updatePaused(ctx context.Context, db pg.Querier, name QueueName, paused bool) (Queue, error) {
	return pg.One(db.QueryRow(ctx, `UPDATE queues SET paused = $3 WHERE tenant = $1 AND name = $2 RETURNING `+queueColumns,
		auth.TenantOf(ctx), name.name, paused), scanQueue, errNoQueue(name))
}

// selectStats returns the statistics that the database has of a queue, which is all but its depth. The rates are those of
// the last six finished buckets, including what processes that have ended since have written.
func selectStats(ctx context.Context, db pg.Querier, name QueueName) (s Stats, err error) {
	err = db.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM message_waiting WHERE tenant = $1 AND queue = $2 AND lease IS NULL),
			(SELECT count(*) FROM message_waiting WHERE tenant = $1 AND queue = $2 AND lease IS NOT NULL),
			(SELECT count(*) FROM dead_letters WHERE tenant = $1 AND queue = $2),
			coalesce(sum(published), 0) / 60::float8, coalesce(sum(delivered), 0) / 60::float8, coalesce(sum(acknowledged), 0) / 60::float8
		FROM queue_rates
		WHERE tenant = $1 AND queue = $2 AND bucket >= `+bucketOf(`now()`)+` - interval '60 seconds'`,
		auth.TenantOf(ctx), name.name,
	).Scan(&s.Waiting, &s.Pulled, &s.DeadLetters, &s.Rates.Published, &s.Rates.Delivered, &s.Rates.Acknowledged)
	return s, err
}

// deleteQueue waits for the transactions that insert messages of the queue, see lockQueues.
func deleteQueue(ctx context.Context, db *pg.Tx, name QueueName) (deleted bool, err error) {
	_, err = db.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('queue ' || $1 || ' ' || $2, 0))`, auth.TenantOf(ctx), name.name)
	if err != nil {
		return false, err
	}
	tag, err := db.Exec(ctx, `DELETE FROM queues WHERE tenant = $1 AND name = $2`, auth.TenantOf(ctx), name.name)
	return tag.RowsAffected() == 1, err
}

// deleteWaitingOf deletes the waiting messages for a queue, and returns the database's time when it began. A statement that
// waits for a relay does not see a row that this relay puts back; the next statement does.
func deleteWaitingOf(ctx context.Context, db *pg.Tx, name QueueName) (deleted int64, began time.Time, err error) {
	if err := db.QueryRow(ctx, `SELECT statement_timestamp()`).Scan(&began); err != nil {
		return 0, began, err
	}
	for range 2 {
		tag, err := db.Exec(ctx, `DELETE FROM message_waiting WHERE tenant = $1 AND queue = $2 AND lease IS NULL`, auth.TenantOf(ctx), name.name)
		if err != nil {
			return deleted, began, err
		}
		deleted += tag.RowsAffected()
	}
	return deleted, began, nil
}
