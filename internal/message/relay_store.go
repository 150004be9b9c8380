package message

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// selectBacklogs returns up to limit backlogs of all tenants that come after behind, in the order of their keys, whether
// they are due or not. Each takes one index lookup, however many messages it has.
func selectBacklogs(ctx context.Context, tx *pg.Tx, behind backlog, limit int) ([]backlog, error) {
	rows, err := tx.Query(ctx, `
		WITH RECURSIVE backlogs AS (
			(SELECT tenant, queue, topic, due_at, 1 AS n FROM message_waiting
			WHERE (tenant, queue, topic) > ($1, $2, $3) ORDER BY tenant, queue, topic, due_at LIMIT 1)
			UNION ALL
			SELECT w.tenant, w.queue, w.topic, w.due_at, b.n + 1 FROM backlogs b CROSS JOIN LATERAL (
				SELECT tenant, queue, topic, due_at FROM message_waiting
				WHERE (tenant, queue, topic) > (b.tenant, b.queue, b.topic) ORDER BY tenant, queue, topic, due_at LIMIT 1) AS w
			WHERE b.n < $4
		)
		SELECT tenant, queue, topic, b.due_at - now(), coalesce(f.failures, 0), coalesce(f.until - now(), '0')
		FROM backlogs b LEFT JOIN message_backoffs f USING (tenant, queue, topic) ORDER BY b.n`,
		behind.tenant, behind.queue, behind.topic, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b backlog, err error) {
		err = row.Scan(&b.tenant, &b.queue, &b.topic, &b.due, &b.failures, &b.blocked)
		return b, err
	})
}

// claimWaiting locks messages that are due: the earliest ones of each backlog up to its share, without those that another
// relay has locked. It stops once they have the given number of bytes; the backlogs take turns until then. full reports
// whether more may be due. The commit does not wait for the disk: if a crash of the server loses it, the messages are
// only sent again.
func claimWaiting(ctx context.Context, tx *pg.Tx, due []backlog, bytes int) (batch []*envelope, full bool, err error) {
	tenants, queues, topics, shares := backlogArrays(due)
	// The rows are found by their ctid: the table may be empty one moment and full the next, so the planner's statistics are
	// often wrong.
	rows, err := tx.Query(ctx, `
		WITH due AS MATERIALIZED (
			SELECT b.n AS backlog, w.* FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) WITH ORDINALITY AS b (tenant, queue, topic, share, n)
			CROSS JOIN LATERAL (
				SELECT ctid, due_at, octet_length(body) + octet_length(attributes::text) AS size FROM message_waiting
				WHERE (tenant, queue, topic) = (b.tenant, b.queue, b.topic) AND due_at <= now()
				ORDER BY due_at LIMIT b.share FOR UPDATE SKIP LOCKED) AS w
		), placed AS (
			SELECT *, row_number() OVER (PARTITION BY backlog ORDER BY due_at, ctid) AS turn FROM due
		), fit AS (
			SELECT ctid FROM (SELECT *, sum(size) OVER (ORDER BY turn, backlog) - size AS before FROM placed) AS p WHERE before < $5
		)
		SELECT ctid::text, tenant, id::text, queue, topic, routing_key, attempts, reason, first_failed_at, headers, attributes, body,
			octet_length(body) + octet_length(attributes::text), lease IS NOT NULL, due_at
		FROM message_waiting, (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed
		WHERE ctid = ANY (ARRAY(SELECT ctid FROM fit)) ORDER BY due_at, id`, tenants, queues, topics, shares, bytes)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	size, left := 0, make(map[backlog]int, len(due))
	failures := make(map[backlog]int, len(due))
	for _, b := range due {
		left[b.key()], failures[b.key()] = b.share, b.failures
	}
	for rows.Next() {
		m := &envelope{}
		var failed *time.Time
		var headers, attributes []byte
		var n int
		var due time.Time
		if err := rows.Scan(&m.place, &m.tenant, &m.id, &m.to.queue.name, &m.to.topic, &m.to.routingKey, &m.attempts, &m.reason, &failed,
			&headers, &attributes, &m.body, &n, &m.lapsed, &due); err != nil {
			return nil, false, err
		}
		if err := errors.Join(json.Unmarshal(headers, &m.headers), json.Unmarshal(attributes, &m.attributes)); err != nil {
			m.fault = errs.Wrap(err, errs.InvalidArgument, "the headers or attributes are no texts")
		}
		if failed != nil {
			m.firstFailedAt = *failed
		}
		if m.lapsed {
			m.lapse(due)
		}
		b := m.backlog()
		m.failures = failures[b]
		left[b]--
		full = full || left[b] == 0
		batch, size = append(batch, m), size+n
	}
	return batch, full || size >= bytes, rows.Err()
}

func backlogArrays(backlogs []backlog) (tenants, queues, topics []string, shares []int32) {
	for _, b := range backlogs {
		tenants, queues, topics, shares = append(tenants, b.tenant), append(queues, b.queue), append(topics, b.topic), append(shares, int32(b.share))
	}
	return tenants, queues, topics, shares
}

// settleWaiting carries out a settlement. Messages to be sent again keep their rows and get a new due time.
func settleWaiting(ctx context.Context, tx *pg.Tx, s settlement) error {
	if len(s.gone) > 0 {
		if _, err := tx.Exec(ctx, `DELETE FROM message_waiting WHERE ctid = ANY ($1::text[]::tid[])`, places(s.gone)); err != nil {
			return err
		}
	}
	if len(s.later) > 0 {
		_, err := tx.Exec(ctx, `UPDATE message_waiting SET due_at = clock_timestamp() + $2::interval WHERE ctid = ANY ($1::text[]::tid[])`,
			places(s.later), relayAgain)
		if err != nil {
			return err
		}
	}
	if len(s.doubts) > 0 {
		_, err := tx.Exec(ctx, `UPDATE message_waiting SET in_doubt = true, due_at = clock_timestamp() + $2::interval WHERE ctid = ANY ($1::text[]::tid[])`,
			places(s.doubts), doubtLimit)
		if err != nil {
			return err
		}
	}
	if err := postponeUnbound(ctx, tx, s.unbound); err != nil {
		return err
	}
	return insertWaiting(ctx, tx, s.copies...)
}

// resolveDoubt deletes a message in doubt that was stored, or makes it due. If it has failed an attempt meanwhile, it was
// stored and waits for the next one.
func resolveDoubt(ctx context.Context, system *pg.System, m *envelope, stored bool) error {
	const these = ` WHERE tenant = $1 AND id = $2::uuid AND queue = $3 AND attempts = $4 AND in_doubt`
	statement := `UPDATE message_waiting SET due_at = clock_timestamp()` + these
	if stored {
		statement = `DELETE FROM message_waiting` + these
	}
	_, err := system.Exec(ctx, statement, m.tenant, m.id, m.to.queue.name, m.attempts)
	return err
}

// noBinding is the reason of messages to topics without a binding.
const noBinding = "no queue is bound to the topic with a pattern that matches the routing key"

// postponeUnbound has messages to topics without a binding wait for twice as long as the last time, from a second to ten
// minutes, less a random part.
func postponeUnbound(ctx context.Context, tx *pg.Tx, messages []*envelope) error {
	if len(messages) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE message_waiting SET unbound = unbound + 1, reason = $2,
			due_at = clock_timestamp() + (1 - random() / 2) * least(interval '10 minutes', interval '1 second' * 2 ^ least(unbound, 20))
		WHERE ctid = ANY ($1::text[]::tid[])`, places(messages), noBinding)
	return err
}

// reviveUnbound makes up to limit messages of the tenant to the topics due that found no binding so far, and returns how
// many.
func reviveUnbound(ctx context.Context, db pg.Querier, topics []string, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `UPDATE message_waiting SET due_at = clock_timestamp() WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM message_waiting
			WHERE tenant = $1 AND queue = '' AND topic = ANY ($2) AND due_at > clock_timestamp() AND unbound > 0
			LIMIT $3 FOR UPDATE SKIP LOCKED))`, auth.TenantOf(ctx), topics, limit)
	return tag.RowsAffected(), err
}

func places(messages []*envelope) []string {
	all := make([]string, len(messages))
	for i, m := range messages {
		all[i] = m.place
	}
	return all
}

func blockBacklogs(ctx context.Context, tx *pg.Tx, backlogs []backlog) error {
	for _, b := range backlogs {
		_, err := tx.Exec(ctx, `INSERT INTO message_backoffs (tenant, queue, topic, failures, until)
			VALUES ($1, $2, $3, $4, clock_timestamp() + $5::interval)
			ON CONFLICT (tenant, queue, topic) DO UPDATE SET failures = excluded.failures, until = excluded.until`,
			b.tenant, b.queue, b.topic, b.failures, b.blocked)
		if err != nil {
			return err
		}
	}
	return nil
}

func freeBacklogs(ctx context.Context, tx *pg.Tx, backlogs []backlog) error {
	for _, b := range backlogs {
		if _, err := tx.Exec(ctx, `DELETE FROM message_backoffs WHERE (tenant, queue, topic) = ($1, $2, $3)`, b.tenant, b.queue, b.topic); err != nil {
			return err
		}
	}
	return nil
}

// waitingLate is for how long the earliest message of all tenants has been due. The result is negative if none is due.
const waitingLate = `SELECT coalesce(now() - min(due_at), '-1 hour') FROM message_waiting`
