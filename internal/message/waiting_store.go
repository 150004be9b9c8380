package message

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/pg"
)

// insertWaiting inserts messages into the waiting table. A message that is waiting for the same queue already keeps its
// row, with the higher number of attempts: its delivery was settled and came again all the same.
func insertWaiting(ctx context.Context, db *pg.Tx, messages ...envelope) error {
	messages = distinct(messages)
	n := len(messages)
	tenants, ids := make([]string, n), make([]string, n)
	queues, topics, keys := make([]string, n), make([]string, n), make([]string, n)
	due, at := make([]time.Duration, n), make([]*time.Time, n)
	attempts, reasons, failed := make([]int32, n), make([]string, n), make([]*time.Time, n)
	headers, attributes, bodies := make([]string, n), make([]string, n), make([][]byte, n)
	for i, m := range messages {
		tenants[i], ids[i] = m.tenant, m.id
		queues[i], topics[i], keys[i] = m.to.queue.name, m.to.topic, m.to.routingKey
		due[i], at[i] = m.due, unlessZero(m.dueAt)
		attempts[i], reasons[i], failed[i] = int32(m.attempts), pg.Text(m.reason), unlessZero(m.firstFailedAt)
		headers[i], attributes[i] = object(m.headers), object(m.attributes)
		bodies[i] = append([]byte{}, m.body...) // never nil, which is NULL
	}
	// The transaction may have begun long ago, so now() cannot be used.
	_, err := db.Exec(ctx, `
		INSERT INTO message_waiting AS w (tenant, id, queue, topic, routing_key, due_at, attempts, reason, first_failed_at,
			headers, attributes, body)
		SELECT tenant, id::uuid, queue, topic, routing_key, coalesce(at, clock_timestamp() + due), attempts, reason, failed,
			headers::json, attributes::json, body
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::interval[], $7::timestamptz[], $8::int[],
			$9::text[], $10::timestamptz[], $11::text[], $12::text[], $13::bytea[])
			AS m (tenant, id, queue, topic, routing_key, due, at, attempts, reason, failed, headers, attributes, body)
		ON CONFLICT (tenant, id, queue) DO UPDATE SET attempts = greatest(w.attempts, excluded.attempts), in_doubt = false`,
		tenants, ids, queues, topics, keys, due, at, attempts, reasons, failed, headers, attributes, bodies)
	return err
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// object returns a map as JSON.
func object(m map[string]string) string {
	if len(m) == 0 {
		return "{}"
	}
	encoded, _ := json.Marshal(m) // Strings can always be encoded.
	return string(encoded)
}

// lockQueues sets queues[q] for each of the queues that exists, and prevents their deletion until the transaction ends. Many
// transactions do so at a time: locks on the rows would make a MultiXact of all of them, anew for each that comes.
func lockQueues(ctx context.Context, tx *pg.Tx, queues map[tenantQueue]bool) error {
	var tenants, names []string
	for q := range queues {
		tenants, names = append(tenants, q.tenant), append(names, q.queue.name)
	}
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(hashtextextended('queue ' || tenant || ' ' || name, 0))
		FROM (SELECT tenant, name FROM unnest($1::text[], $2::text[]) AS w (tenant, name) ORDER BY tenant, name) AS w`, tenants, names)
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		SELECT q.tenant, q.name FROM queues q JOIN unnest($1::text[], $2::text[]) AS w (tenant, name)
			ON q.tenant = w.tenant AND q.name = w.name`, tenants, names)
	if err != nil {
		return err
	}
	var q tenantQueue
	_, err = pgx.ForEachRow(rows, []any{&q.tenant, &q.queue.name}, func() error {
		queues[q] = true
		return nil
	})
	return err
}

// selectBindings returns the bindings to each of the topics, in the order of their queues.
func selectBindings(ctx context.Context, db pg.Querier, topics ...tenantTopic) (map[tenantTopic][]bound, error) {
	var tenants, names []string
	for _, t := range topics {
		tenants, names = append(tenants, t.tenant), append(names, t.topic)
	}
	rows, err := db.Query(ctx, `
		SELECT b.queue, b.pattern, b.tenant, b.topic FROM queue_bindings b JOIN unnest($1::text[], $2::text[]) AS w (tenant, topic)
			ON b.tenant = w.tenant AND b.topic = w.topic
		ORDER BY b.queue, b.pattern`, tenants, names)
	return collectBindings(rows, err)
}

func collectBindings(rows pgx.Rows, err error) (map[tenantTopic][]bound, error) {
	if err != nil {
		return nil, err
	}
	bindings := map[tenantTopic][]bound{}
	var topic tenantTopic
	var b bound
	_, err = pgx.ForEachRow(rows, []any{&b.queue.name, &b.pattern, &topic.tenant, &topic.topic}, func() error {
		bindings[topic] = append(bindings[topic], b)
		return nil
	})
	return bindings, err
}

// selectMatching returns, for each of the topics, the bindings that may match the routing key of one of the destinations, in the order of
// their queues.
func selectMatching(ctx context.Context, db pg.Querier, to map[tenantDestination]bool) (map[tenantTopic][]bound, error) {
	var tenants, names, paths []string
	for d := range to {
		tenants, names, paths = append(tenants, d.tenant), append(names, d.to.topic), append(paths, pathOf(d.to.routingKey))
	}
	rows, err := db.Query(ctx, `
		SELECT DISTINCT b.queue, b.pattern, b.tenant, b.topic
		FROM queue_bindings b JOIN unnest($1::text[], $2::text[], $3::text[]) AS w (tenant, topic, path) ON b.tenant = w.tenant AND b.topic = w.topic
		WHERE w.path LIKE `+broker.Resembles+` ESCAPE ''
		ORDER BY b.queue, b.pattern`, tenants, names, paths)
	return collectBindings(rows, err)
}

func selectWaiting(ctx context.Context, db pg.Querier, id string) (WaitingMessage, error) {
	return pg.One(db.QueryRow(ctx, `
		SELECT queue, topic, routing_key, due_at, attempts, reason, attributes, body
		FROM message_waiting WHERE tenant = $1 AND id = $2::uuid AND lease IS NULL AND `+stays+`
		ORDER BY due_at LIMIT 1`, auth.TenantOf(ctx), id),
		func(row pgx.Row) (WaitingMessage, error) {
			m := WaitingMessage{ID: id}
			err := row.Scan(&m.Queue.name, &m.Topic, &m.RoutingKey, &m.DeliverAt, &m.Attempts, &m.Reason, &m.Attributes, &m.Body)
			return m, err
		}, errNotWaiting(id))
}

// lockWaiting locks the rows of a message, and returns how many there are and whether any is in doubt.
func lockWaiting(ctx context.Context, tx *pg.Tx, id string) (n int, inDoubt bool, err error) {
	err = tx.QueryRow(ctx, `
		WITH locked AS (
			SELECT in_doubt FROM message_waiting WHERE tenant = $1 AND id = $2::uuid AND lease IS NULL AND `+stays+` FOR UPDATE
		)
		SELECT count(*), coalesce(bool_or(in_doubt), false) FROM locked`, auth.TenantOf(ctx), id).Scan(&n, &inDoubt)
	return n, inDoubt, err
}

// deleteWaiting deletes a waiting message and frees its idempotency key.
func deleteWaiting(ctx context.Context, tx *pg.Tx, id string) error {
	_, err := tx.Exec(ctx, `
		WITH freed AS (
			DELETE FROM message_keys WHERE tenant = $1 AND id = $2::uuid
		)
		DELETE FROM message_waiting WHERE tenant = $1 AND id = $2::uuid AND lease IS NULL AND `+stays, auth.TenantOf(ctx), id)
	return err
}

// deleteOwn deletes waiting messages to this service itself. They have no idempotency keys.
func deleteOwn(ctx context.Context, tx *pg.Tx, ids []string) error {
	_, err := tx.Exec(ctx, `
		DELETE FROM message_waiting WHERE tenant = $1 AND id = ANY($2::uuid[]) AND starts_with(topic, $3) AND lease IS NULL`,
		auth.TenantOf(ctx), ids, ownPrefix)
	return err
}

// distinct returns the messages, but of several for the same queue with the same id only the one with the most attempts.
func distinct(messages []envelope) []envelope {
	type row struct {
		tenant, id string
		queue      QueueName
	}
	places := make(map[row]int, len(messages))
	var kept []envelope
	for _, m := range messages {
		key := row{m.tenant, m.id, m.to.queue}
		if n, again := places[key]; again {
			kept[n].attempts = max(kept[n].attempts, m.attempts)
			continue
		}
		places[key] = len(kept)
		kept = append(kept, m)
	}
	return kept
}
