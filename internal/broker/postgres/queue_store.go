package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"plinth/internal/broker"
	"plinth/internal/pg"
)

// insertQueue creates a queue, and leaves an existing one of that name as it is.
func insertQueue(ctx context.Context, db pg.Querier, q broker.Queue) error {
	_, err := db.Exec(ctx, `
		INSERT INTO broker_queues (name, message_ttl, max_length, room) VALUES ($1, $2::interval, $3, $3) ON CONFLICT DO NOTHING`,
		q.Name, q.MessageTTL, q.MaxLength)
	return err
}

func selectQueue(ctx context.Context, db pg.Querier, name string) (broker.Queue, error) {
	q := broker.Queue{Name: name}
	err := db.QueryRow(ctx, `SELECT message_ttl, max_length FROM broker_queues WHERE name = $1`, name).
		Scan(&q.MessageTTL, &q.MaxLength)
	return q, noQueue(err)
}

func findQueue(ctx context.Context, db pg.Querier, name string) (id int64, err error) {
	err = db.QueryRow(ctx, `SELECT id FROM broker_queues WHERE name = $1`, name).Scan(&id)
	return id, noQueue(err)
}

// insertBindings tries the regular expressions, so that one that the database refuses never gets in the way of publishers.
func insertBindings(ctx context.Context, db pg.Querier, queue string, bindings []broker.Binding) (err error) {
	var topics, patterns, expressions []string
	for _, b := range bindings {
		topics, patterns, expressions = append(topics, b.Topic), append(patterns, b.Pattern), append(expressions, matches(b.Pattern))
	}
	var id int64
	err = db.QueryRow(ctx, `
		WITH q AS (
			SELECT id FROM broker_queues WHERE name = $1 FOR KEY SHARE
		), bound AS (
			INSERT INTO broker_bindings (queue_id, topic, pattern, matches)
			SELECT id, topic, pattern, matches FROM q, unnest($2::text[], $3::text[], $4::text[]) AS b (topic, pattern, matches)
			WHERE ('' ~ matches) IS NOT NULL
			ON CONFLICT DO NOTHING
		)
		SELECT id FROM q`, queue, topics, patterns, expressions).Scan(&id)
	return noQueue(err)
}

func deleteBindings(ctx context.Context, db pg.Querier, queue string, bindings []broker.Binding) error {
	var topics, patterns []string
	for _, b := range bindings {
		topics, patterns = append(topics, b.Topic), append(patterns, b.Pattern)
	}
	_, err := db.Exec(ctx, `
		DELETE FROM broker_bindings b USING broker_queues q
		WHERE q.name = $1 AND b.queue_id = q.id AND (b.topic, b.pattern) IN (SELECT * FROM unnest($2::text[], $3::text[]))`,
		queue, topics, patterns)
	return err
}

func countReady(ctx context.Context, db pg.Querier, queue string) (n int64, err error) {
	err = db.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM broker_messages m WHERE m.queue_id = q.id AND `+waits+`)
		FROM broker_queues q WHERE q.name = $1`, queue).Scan(&n)
	return n, noQueue(err)
}

// lastMessage returns the seq of the newest message of a queue, or 0 for an empty queue.
func lastMessage(ctx context.Context, db pg.Querier, queue int64) (seq int64, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce(max(seq), 0) FROM broker_messages WHERE queue_id = $1`, queue).Scan(&seq)
	return seq, err
}

// purgeMessages deletes up to limit messages of a queue that are not outstanding, with a seq above after and up to last. It
// returns the seq of the last one deleted, and how many of them were not expired. Locked rows are skipped: they are being
// claimed or settled.
func purgeMessages(ctx context.Context, db pg.Querier, queue, after, last int64, limit int) (seq int64, deleted int,
	waiting int64, err error,
) {
	err = db.QueryRow(ctx, `
		WITH doomed AS (
			SELECT seq FROM broker_messages
			WHERE queue_id = $1 AND seq > $2 AND seq <= $3 AND lease IS NULL
			ORDER BY seq LIMIT $4
			FOR UPDATE SKIP LOCKED
		), gone AS (
			DELETE FROM broker_messages m USING doomed
			WHERE m.queue_id = $1 AND m.seq = doomed.seq
			RETURNING m.seq, m.expires_at
		)
		SELECT coalesce(max(seq), 0), count(*), count(*) FILTER (WHERE expires_at > now()) FROM gone`,
		queue, after, last, limit).Scan(&seq, &deleted, &waiting)
	return seq, deleted, waiting, err
}

// deleteQueue deletes the queue's row first: that waits for the publishers that share a lock on it, and afterwards all their
// messages are visible.
func deleteQueue(ctx context.Context, db *pg.System, name string) (id int64, err error) {
	err = db.InTx(ctx, func(tx *pg.Tx) error {
		if err := tx.QueryRow(ctx, `DELETE FROM broker_queues WHERE name = $1 RETURNING id`, name).Scan(&id); err != nil {
			return noQueue(err)
		}
		_, err := tx.Exec(ctx, `
			WITH doomed AS (
				SELECT seq FROM broker_messages WHERE queue_id = $1 ORDER BY seq FOR UPDATE
			)
			DELETE FROM broker_messages m USING doomed WHERE m.queue_id = $1 AND m.seq = doomed.seq`, id)
		return err
	})
	return id, err
}

// deleteExpired deletes up to limit expired messages that are not outstanding, and returns how many. The first comparison
// matches the condition of the index.
func deleteExpired(ctx context.Context, db pg.Querier, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `
		WITH doomed AS (
			SELECT queue_id, seq FROM broker_messages
			WHERE expires_at < 'infinity' AND expires_at <= now() AND lease IS NULL
			ORDER BY expires_at LIMIT $1
			FOR UPDATE SKIP LOCKED
		)
		DELETE FROM broker_messages m USING doomed, `+relaxed+`
		WHERE m.queue_id = doomed.queue_id AND m.seq = doomed.seq`, limit)
	return tag.RowsAffected(), err
}

func noQueue(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return broker.ErrNoQueue
	}
	return err
}
