package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/broker"
	"plinth/internal/pg"
)

// Statements that wait for row locks take them in the order of the key, and the others skip locked rows, so that none
// deadlock. relaxed makes a statement's commit not wait for the disk.
const relaxed = `(SELECT set_config('synchronous_commit', 'off', true)) AS relaxed`

func insertQueue(ctx context.Context, db pg.Querier, name string) error {
	_, err := db.Exec(ctx, `INSERT INTO broker_queues (name) VALUES ($1) ON CONFLICT DO NOTHING`, name)
	return err
}

func findQueue(ctx context.Context, db pg.Querier, name string) (id int64, err error) {
	err = db.QueryRow(ctx, `SELECT id FROM broker_queues WHERE name = $1`, name).Scan(&id)
	return id, noQueue(err)
}

func countReady(ctx context.Context, db pg.Querier, queue string) (n int64, err error) {
	err = db.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM broker_messages m WHERE m.queue_id = q.id AND m.available_at <= now())
		FROM broker_queues q WHERE q.name = $1`, queue).Scan(&n)
	return n, noQueue(err)
}

// deleteQueue takes the queue's row first: it waits for the publishers that share a lock on it, and then sees all their
// messages.
func deleteQueue(ctx context.Context, db *pg.DB, name string) (id int64, err error) {
	err = db.InTx(ctx, func(tx pgx.Tx) error {
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

// insertMessages stores the messages whose queues exist, in order, and gives the ids of those queues by name.
func insertMessages(ctx context.Context, db pg.Querier, batch []call[publication]) (map[string]int64, error) {
	n := len(batch)
	queues, ids, attributes, bodies := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, c := range batch {
		queues[i], ids[i], attributes[i], bodies[i] = c.value.queue, c.value.id, c.value.attributes, c.value.body
	}
	rows, err := db.Query(ctx, `
		WITH q AS (
			SELECT id, name, tenant FROM broker_queues WHERE name = ANY ($1::text[]) FOR KEY SHARE
		), inserted AS (
			INSERT INTO broker_messages (queue_id, tenant, id, attributes, body)
			SELECT q.id, q.tenant, m.id::uuid, m.attributes::json, m.body
			FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
				WITH ORDINALITY AS m (queue, id, attributes, body, n)
			JOIN q ON q.name = m.queue
			ORDER BY m.n
		)
		SELECT name, id FROM q`, queues, ids, attributes, bodies)
	if err != nil {
		return nil, err
	}
	found := map[string]int64{}
	var name string
	var id int64
	_, err = pgx.ForEachRow(rows, []any{&name, &id}, func() error {
		found[name] = id
		return nil
	})
	return found, err
}

// claimMessages leases up to limit ready messages of a queue, oldest first. It looks whether the queue exists even where
// the limit is 0.
func claimMessages(
	ctx context.Context, db pg.Querier, queue int64, limit int, lease string, duration time.Duration,
) ([]*delivery, error) {
	rows, err := db.Query(ctx, `
		WITH due AS (
			SELECT seq FROM broker_messages
			WHERE queue_id = $1 AND available_at <= now()
			ORDER BY seq LIMIT $2
			FOR UPDATE SKIP LOCKED
		), claimed AS (
			UPDATE broker_messages m
			SET lease = $3::text::uuid, available_at = now() + $4::interval, attempt = m.attempt + 1
			FROM due, `+relaxed+`
			WHERE m.queue_id = $1 AND m.seq = due.seq
			RETURNING m.seq, m.id, m.attributes, m.body, m.attempt
		)
		SELECT c.seq, c.id::text, c.attributes, c.body, c.attempt
		FROM broker_queues q LEFT JOIN claimed c ON true
		WHERE q.id = $1
		ORDER BY c.seq`, queue, limit, lease, duration)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	exists := false
	var claimed []*delivery
	for rows.Next() {
		exists = true
		var seq *int64 // null in the one row of a queue with nothing to claim, like all the rest of it
		var id *string
		var attempt *int
		d := &delivery{queue: queue, lease: lease}
		if err := rows.Scan(&seq, &id, &d.message.Attributes, &d.message.Body, &attempt); err != nil {
			return nil, err
		}
		if seq != nil {
			d.seq, d.message.ID, d.attempt = *seq, *id, *attempt
			claimed = append(claimed, d)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if !exists {
		return nil, broker.ErrNoQueue
	}
	return claimed, nil
}

// deleteMessages deletes those of the messages that are still leased by these very deliveries, and says which.
func deleteMessages(ctx context.Context, db pg.Querier, deliveries []*delivery) (deleted map[int64]bool, err error) {
	queues, seqs, leases := keys(deliveries)
	rows, err := db.Query(ctx, `
		WITH mine AS (
			SELECT m.queue_id, m.seq
			FROM broker_messages m JOIN unnest($1::bigint[], $2::bigint[], $3::text[]) AS d (queue_id, seq, lease)
			ON m.queue_id = d.queue_id AND m.seq = d.seq AND m.lease = d.lease::uuid
			ORDER BY m.queue_id, m.seq
			FOR UPDATE OF m
		)
		DELETE FROM broker_messages m USING mine, `+relaxed+`
		WHERE m.queue_id = mine.queue_id AND m.seq = mine.seq
		RETURNING m.seq`, queues, seqs, leases)
	if err != nil {
		return nil, err
	}
	deleted = map[int64]bool{}
	var seq int64
	_, err = pgx.ForEachRow(rows, []any{&seq}, func() error {
		deleted[seq] = true
		return nil
	})
	return deleted, err
}

// renewLeases skips rows that are locked: they are being settled.
func renewLeases(ctx context.Context, db pg.Querier, deliveries []*delivery, duration time.Duration) error {
	queues, seqs, leases := keys(deliveries)
	_, err := db.Exec(ctx, `
		WITH mine AS (
			SELECT m.queue_id, m.seq
			FROM broker_messages m JOIN unnest($1::bigint[], $2::bigint[], $3::text[]) AS d (queue_id, seq, lease)
			ON m.queue_id = d.queue_id AND m.seq = d.seq AND m.lease = d.lease::uuid
			FOR UPDATE OF m SKIP LOCKED
		)
		UPDATE broker_messages m SET available_at = now() + $4::interval
		FROM mine, `+relaxed+`
		WHERE m.queue_id = mine.queue_id AND m.seq = mine.seq`, queues, seqs, leases, duration)
	return err
}

// returnMessages makes those that are still leased by these very deliveries ready again. The attempt of one that nobody
// received is taken back.
func returnMessages(ctx context.Context, db pg.Querier, deliveries []*delivery) error {
	queues, seqs, leases := keys(deliveries)
	attempts := make([]int32, len(deliveries))
	for i, d := range deliveries {
		attempts[i] = int32(d.attempt)
		if !d.received {
			attempts[i]--
		}
	}
	_, err := db.Exec(ctx, `
		WITH mine AS (
			SELECT m.queue_id, m.seq, d.attempt
			FROM broker_messages m
			JOIN unnest($1::bigint[], $2::bigint[], $3::text[], $4::int[]) AS d (queue_id, seq, lease, attempt)
			ON m.queue_id = d.queue_id AND m.seq = d.seq AND m.lease = d.lease::uuid
			ORDER BY m.queue_id, m.seq
			FOR UPDATE OF m
		)
		UPDATE broker_messages m SET lease = NULL, available_at = now(), attempt = mine.attempt
		FROM mine, `+relaxed+`
		WHERE m.queue_id = mine.queue_id AND m.seq = mine.seq`, queues, seqs, leases, attempts)
	return err
}

// returnLease makes the messages of one claim, of which nobody received any, ready again.
func returnLease(ctx context.Context, db pg.Querier, queue int64, lease string) error {
	_, err := db.Exec(ctx, `
		UPDATE broker_messages SET lease = NULL, available_at = now(), attempt = attempt - 1
		WHERE queue_id = $1 AND lease = $2::text::uuid`, queue, lease)
	return err
}

// queuesToWake gives those of the queues that have something ready, or that are deleted.
func queuesToWake(ctx context.Context, db pg.Querier, queues []int64) ([]int64, error) {
	rows, err := db.Query(ctx, `
		SELECT DISTINCT w.id FROM unnest($1::bigint[]) AS w (id)
		WHERE EXISTS (SELECT FROM broker_messages m WHERE m.queue_id = w.id AND m.available_at <= now())
		OR NOT EXISTS (SELECT FROM broker_queues q WHERE q.id = w.id)`, queues)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

func keys(deliveries []*delivery) (queues, seqs []int64, leases []string) {
	for _, d := range deliveries {
		queues, seqs, leases = append(queues, d.queue), append(seqs, d.seq), append(leases, d.lease)
	}
	return queues, seqs, leases
}

func noQueue(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return broker.ErrNoQueue
	}
	return err
}
