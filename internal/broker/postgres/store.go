package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/broker"
	"plinth/internal/pg"
)

// Statements that wait for row locks take them in key order, and the others skip locked rows, so that none deadlock. relaxed
// makes a statement's commit not wait for the disk.
const relaxed = `(SELECT set_config('synchronous_commit', 'off', true)) AS relaxed`

// waits is the condition that a row m of broker_messages is neither leased nor expired.
const waits = `m.lease IS NULL AND m.expires_at > now()`

// placed means that a publication of a batch has a copy for a queue; kept reports whether the queue had room for it.
type placed struct {
	n     int // its place in the batch
	queue int64
	kept  bool
}

// insertMessages stores a copy of each message, in order, for each queue that its address leads to. It first locks the
// queues against deletion. A queue with a limit has as much room as countRoom found, less what was inserted since.
//
// Bindings are the outer loop, which OFFSET 0 enforces: the database caches only a few compiled regular expressions. The
// arrays come through subqueries so that the database does not plan for their length: it would plan anew each time, which
// takes longer than everything else. The commit waits for the disk unless each message is stored elsewhere until a later one.
func insertMessages(ctx context.Context, db pg.Querier, batch []call[publication]) ([]placed, error) {
	c := columnsOf(batch)
	stored := !slices.ContainsFunc(batch, func(b call[publication]) bool { return !b.value.stored })
	rows, err := db.Query(ctx, `
		WITH target AS (
			SELECT a.n, q.id AS queue_id
			FROM unnest((SELECT $1::text[])) WITH ORDINALITY AS a (queue, n) JOIN broker_queues q ON q.name = a.queue
			UNION
			SELECT a.n, b.queue_id
			FROM (SELECT queue_id, topic, matches, `+broker.Resembles+` AS resembles FROM broker_bindings) AS b CROSS JOIN LATERAL (
				SELECT n FROM unnest((SELECT $2::text[]), (SELECT $3::text[])) WITH ORDINALITY AS a (topic, path, n)
				WHERE a.topic = b.topic AND CASE WHEN a.path LIKE b.resembles ESCAPE '' THEN a.path ~ b.matches END
				OFFSET 0
			) AS a
			WHERE b.topic = ANY ((SELECT $2::text[])::text[])
		), unlimited AS (
			SELECT id, tenant, message_ttl, NULL::bigint AS room FROM broker_queues
			WHERE id IN (SELECT queue_id FROM target) AND max_length = 0
			FOR KEY SHARE
		), limited AS (
			SELECT id, tenant, message_ttl, coalesce(room, max_length) AS room FROM broker_queues
			WHERE id IN (SELECT queue_id FROM target) AND max_length > 0
			ORDER BY id FOR NO KEY UPDATE
		), q AS (
			SELECT id, tenant, room, CASE WHEN message_ttl > '0' THEN now() + message_ttl ELSE 'infinity' END AS expires_at
			FROM (SELECT * FROM unlimited UNION ALL SELECT * FROM limited) AS locked
		), placed AS (
			SELECT t.n, q.id AS queue_id, q.tenant, q.expires_at,
				q.room IS NULL OR row_number() OVER (PARTITION BY q.id ORDER BY t.n) <= q.room AS kept
			FROM target t JOIN q ON q.id = t.queue_id
		), inserted AS (
			INSERT INTO broker_messages (queue_id, tenant, expires_at, id, headers, attributes, body)
			SELECT p.queue_id, p.tenant, p.expires_at, m.id::uuid, m.headers::json, m.attributes::json, m.body
			FROM unnest((SELECT $4::text[]), (SELECT $5::text[]), (SELECT $6::text[]), (SELECT $7::bytea[]))
				WITH ORDINALITY AS m (id, headers, attributes, body, n)
			JOIN placed p ON p.n = m.n
			WHERE p.kept
			ORDER BY p.n
		), taken AS (
			UPDATE broker_queues b SET room = coalesce(b.room, b.max_length) - p.n
			FROM (SELECT queue_id, count(*) AS n FROM placed WHERE kept AND queue_id IN (SELECT id FROM limited) GROUP BY queue_id) AS p
			WHERE b.id = p.queue_id
		)
		SELECT n - 1, queue_id, kept FROM placed, (SELECT CASE WHEN $8 THEN set_config('synchronous_commit', 'off', true) END) AS relaxed`,
		c.queues, c.topics, c.paths, c.ids, c.headers, c.attributes, c.bodies, stored)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p placed, err error) {
		err = row.Scan(&p.n, &p.queue, &p.kept)
		return p, err
	})
}

// columns is a batch of publications with one slice for each column.
type columns struct {
	queues, topics, paths    []string
	ids, headers, attributes []string
	bodies                   [][]byte
}

func columnsOf(batch []call[publication]) (c columns) {
	for _, b := range batch {
		p := b.value
		c.queues, c.topics, c.paths = append(c.queues, p.queue), append(c.topics, p.topic), append(c.paths, p.path)
		c.ids, c.bodies = append(c.ids, p.id), append(c.bodies, p.body)
		c.headers, c.attributes = append(c.headers, p.headers), append(c.attributes, p.attributes)
	}
	return c
}

// claim asks for messages of a queue.
type claim struct {
	queue      int64
	limit      int
	bytes      int64
	atLeastOne bool // also if that one has more bytes
	lease      string
	leaves     []int64 // messages that others may claim
	duration   time.Duration
}

// claimMessages leases up to limit ready messages of a queue, oldest first. It counts a first attempt; countAttempt counts
// the later ones. It checks that the queue exists even if the limit is 0.
func claimMessages(ctx context.Context, db pg.Querier, c claim) ([]*delivery, error) {
	rows, err := db.Query(ctx, `
		WITH due AS (
			SELECT m.ctid, m.seq, m.attempt, octet_length(m.body) + octet_length(m.attributes::text) AS size FROM broker_messages m
			WHERE m.queue_id = $1 AND `+waits+` AND m.seq <> ALL ($5::bigint[])
			ORDER BY seq LIMIT $2
			FOR UPDATE SKIP LOCKED
		), fit AS (
			SELECT ctid FROM (SELECT ctid, size, sum(size) OVER (ORDER BY seq) AS bytes FROM due) AS sized
			WHERE bytes <= $6::bigint OR bytes = size AND $7::boolean
		), claimed AS (
			UPDATE broker_messages m
			SET lease = $3::text::uuid, available_at = now() + $4::interval, attempt = greatest(m.attempt, 1)
			FROM `+relaxed+`
			WHERE m.ctid = ANY (ARRAY(SELECT ctid FROM fit))
			RETURNING m.seq, m.id, m.headers, m.attributes, m.body
		)
		SELECT c.seq, c.id::text, c.headers, c.attributes, c.body, due.attempt + 1, due.size
		FROM broker_queues q LEFT JOIN (claimed c JOIN due ON due.seq = c.seq) ON true
		WHERE q.id = $1
		ORDER BY c.seq`, c.queue, c.limit, c.lease, c.duration, append([]int64{}, c.leaves...), c.bytes, c.atLeastOne)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	exists := false
	var claimed []*delivery
	for rows.Next() {
		exists = true
		var seq *int64 // null, like all other columns, in the one row of a queue with nothing to claim
		var id *string
		var attempt, size *int
		d := &delivery{queue: c.queue, lease: c.lease}
		if err := rows.Scan(&seq, &id, &d.message.Headers, &d.message.Attributes, &d.message.Body, &attempt, &size); err != nil {
			return nil, err
		}
		if seq != nil {
			d.seq, d.message.ID, d.attempt, d.bytes = *seq, *id, *attempt, int64(*size)
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

// countAttempt counts a delivery, and reports whether it is still leased.
func countAttempt(ctx context.Context, db pg.Querier, d *delivery) (leased bool, err error) {
	tag, err := db.Exec(ctx, `
		UPDATE broker_messages SET attempt = $4 FROM `+relaxed+`
		WHERE queue_id = $1 AND seq = $2 AND lease = $3::text::uuid`, d.queue, d.seq, d.lease, d.attempt)
	return tag.RowsAffected() == 1, err
}

// deleteMessages deletes those messages that are still leased by these very deliveries, and returns which they are. It finds them
// by their keys once they are locked: a row that was renewed meanwhile has another ctid, which the statement does not see.
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

// renewLeases renews the leases of deliveries. It skips locked rows: they are being settled.
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

// returnMessages makes the messages that are still leased by these very deliveries ready again. It undoes the attempt of a
// message that nobody received.
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

// returnLease makes the messages of one claim, none of which was received, ready again. An attempt of 1 is most likely the
// one that the claim itself counted.
func returnLease(ctx context.Context, db pg.Querier, queue int64, lease string) error {
	_, err := db.Exec(ctx, `
		UPDATE broker_messages SET lease = NULL, available_at = now(), attempt = CASE attempt WHEN 1 THEN 0 ELSE attempt END
		WHERE queue_id = $1 AND lease = $2::text::uuid AND lease IS NOT NULL`, queue, lease)
	return err
}

// queuesToWake returns those of the queues that have a ready message or are deleted. LIMIT has the database look up each
// queue by itself, however many messages others have.
func queuesToWake(ctx context.Context, db pg.Querier, queues []int64) ([]int64, error) {
	rows, err := db.Query(ctx, `
		SELECT w.id FROM unnest($1::bigint[]) AS w (id)
		LEFT JOIN LATERAL (SELECT q.id FROM broker_queues q WHERE q.id = w.id LIMIT 1) AS q ON true
		LEFT JOIN LATERAL (
			SELECT m.seq FROM broker_messages m WHERE m.queue_id = w.id AND `+waits+` ORDER BY m.queue_id, m.seq LIMIT 1
		) AS m ON true
		WHERE m.seq IS NOT NULL OR q.id IS NULL`, queues)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// endLapsed ends up to limit leases of all queues that ran out, those that did so first, and returns how many, and the queues.
func endLapsed(ctx context.Context, db pg.Querier, limit int) (n int, queues []int64, err error) {
	rows, err := db.Query(ctx, `
		WITH lapsed AS (
			SELECT ctid FROM broker_messages
			WHERE lease IS NOT NULL AND available_at <= now()
			ORDER BY available_at LIMIT $1
			FOR UPDATE SKIP LOCKED
		), ended AS (
			UPDATE broker_messages m SET lease = NULL FROM `+relaxed+`
			WHERE m.ctid = ANY (ARRAY(SELECT ctid FROM lapsed))
			RETURNING m.queue_id
		)
		SELECT queue_id, count(*) FROM ended GROUP BY queue_id`, limit)
	if err != nil {
		return 0, nil, err
	}
	var queue int64
	var ended int
	_, err = pgx.ForEachRow(rows, []any{&queue, &ended}, func() error {
		n, queues = n+ended, append(queues, queue)
		return nil
	})
	return n, queues, err
}

// countRoom counts the messages of a queue that is full, as far as is known, and sets its room. Where others have done so
// meanwhile, their count stays.
func countRoom(ctx context.Context, db pg.Querier, queue int64) error {
	var before, room int64
	err := db.QueryRow(ctx, `
		SELECT coalesce(room, 0), max_length - (
			SELECT count(*) FROM (
				SELECT FROM broker_messages m WHERE m.queue_id = q.id AND `+waits+` ORDER BY m.queue_id, m.seq LIMIT q.max_length) AS waiting)
		FROM broker_queues q WHERE id = $1`, queue).Scan(&before, &room)
	if err != nil {
		return noQueue(err)
	}
	_, err = db.Exec(ctx, `UPDATE broker_queues SET room = $3 WHERE id = $1 AND coalesce(room, 0) = $2`, queue, before, room)
	return err
}

func keys(deliveries []*delivery) (queues, seqs []int64, leases []string) {
	for _, d := range deliveries {
		queues, seqs, leases = append(queues, d.queue), append(seqs, d.seq), append(leases, d.lease)
	}
	return queues, seqs, leases
}
