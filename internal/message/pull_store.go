package message

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// insertPulled stores messages that were taken from the broker, in the order of their ids, and returns which of them were not
// stored before. They belong to whoever has the receipts of the lease, until due is over.
//
// A message that has a row already keeps that row as it is. Its delivery from the broker is another copy. The row may be locked by a
// relay that has just published this very copy: the statement waits until that row is gone, and stores the message again.
// DO NOTHING would not wait, and the message would be lost. The condition keeps the statement from writing a row that is there.
func insertPulled(ctx context.Context, tx *pg.Tx, queue QueueName, lease uuid.UUID, due time.Duration, messages []Message) (map[string]bool, error) {
	n := len(messages)
	ids, attempts, reasons, failed := make([]string, n), make([]int32, n), make([]string, n), make([]*time.Time, n)
	headers, attributes, bodies := make([]string, n), make([]string, n), make([][]byte, n)
	for i, m := range messages {
		ids[i], attempts[i], reasons[i], failed[i] = m.ID, int32(m.Attempt-1), pg.Text(m.reason), unlessZero(m.firstFailedAt)
		headers[i], attributes[i], bodies[i] = object(m.headers), object(m.Attributes), append([]byte{}, m.Body...)
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO message_waiting AS w (tenant, id, queue, lease, due_at, attempts, reason, first_failed_at, headers, attributes, body)
		SELECT $1, id::uuid, $2, $3::text::uuid, clock_timestamp() + $4::interval, attempts, reason, failed, headers::json, attributes::json, body
		FROM unnest($5::text[], $6::int[], $7::text[], $8::timestamptz[], $9::text[], $10::text[], $11::bytea[])
			AS m (id, attempts, reason, failed, headers, attributes, body)
		ON CONFLICT (tenant, id, queue) DO UPDATE SET attempts = w.attempts WHERE false
		RETURNING id::text`,
		auth.TenantOf(ctx), queue.name, lease.String(), due, ids, attempts, reasons, failed, headers, attributes, bodies)
	if err != nil {
		return nil, err
	}
	stored := make(map[string]bool, n)
	var id string
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		stored[id] = true
		return nil
	})
	return stored, err
}

// leased is the condition for the rows whose leases are named by the receipts $3 and $4 and are not over. A statement that waits for a
// row checks it again on what the row is then, with the time of then. So rows are not found by their ctids: the statement would not see
// a version that is newer than itself, and a good receipt would be refused.
const leased = ` WHERE tenant = $1 AND queue = $2 AND id = ANY ($3::text[]::uuid[]) AND due_at > clock_timestamp()
	AND (id, lease) IN (SELECT * FROM unnest($3::text[]::uuid[], $4::text[]::uuid[])) RETURNING id::text, lease::text`

func receiptArrays(ctx context.Context, queue QueueName, receipts []pullReceipt) []any {
	ids, leases := make([]string, len(receipts)), make([]string, len(receipts))
	for i, r := range receipts {
		ids[i], leases[i] = r.id.String(), r.lease.String()
	}
	return []any{auth.TenantOf(ctx), queue.name, ids, leases}
}

// deleteLeased deletes messages by their receipts, and returns the receipts that were good. The commit does not wait for the disk: if
// a crash of the server loses it, the messages come again.
func deleteLeased(ctx context.Context, db pg.Querier, queue QueueName, receipts []pullReceipt) (map[pullReceipt]bool, error) {
	return collectReceipts(db.Query(ctx, `DELETE FROM message_waiting
		USING (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed`+leased, receiptArrays(ctx, queue, receipts)...))
}

// updateLeased gives leases a new end, counted from now, and returns the receipts that were good.
func updateLeased(ctx context.Context, db pg.Querier, queue QueueName, receipts []pullReceipt, due time.Duration) (map[pullReceipt]bool, error) {
	return collectReceipts(db.Query(ctx, `UPDATE message_waiting SET due_at = clock_timestamp() + $5::interval`+leased,
		append(receiptArrays(ctx, queue, receipts), due)...))
}

func collectReceipts(rows pgx.Rows, err error) (map[pullReceipt]bool, error) {
	if err != nil {
		return nil, err
	}
	good := map[pullReceipt]bool{}
	var id, lease string
	_, err = pgx.ForEachRow(rows, []any{&id, &lease}, func() error {
		good[pullReceipt{uuid.MustParse(id), uuid.MustParse(lease)}] = true
		return nil
	})
	return good, err
}

// takeLeased deletes messages by their receipts and returns them, by the receipts that were good.
func takeLeased(ctx context.Context, tx *pg.Tx, queue QueueName, receipts []pullReceipt) (map[pullReceipt]Message, error) {
	rows, err := tx.Query(ctx, `DELETE FROM message_waiting`+leased+`, attempts + 1, reason, first_failed_at, headers, attributes, body`,
		receiptArrays(ctx, queue, receipts)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	taken := map[pullReceipt]Message{}
	for rows.Next() {
		var m Message
		var lease string
		var failed *time.Time
		if err := rows.Scan(&m.ID, &lease, &m.Attempt, &m.reason, &failed, &m.headers, &m.Attributes, &m.Body); err != nil {
			return nil, err
		}
		if failed != nil {
			m.firstFailedAt = *failed
		}
		taken[pullReceipt{uuid.MustParse(m.ID), uuid.MustParse(lease)}] = m
	}
	return taken, rows.Err()
}

// selectMaxAttemptsOf returns how often the messages of each of the queues are tried, for those that exist.
func selectMaxAttemptsOf(ctx context.Context, tx *pg.Tx, queues []tenantQueue) (map[tenantQueue]int, error) {
	var tenants, names []string
	for _, q := range queues {
		tenants, names = append(tenants, q.tenant), append(names, q.queue.name)
	}
	rows, err := tx.Query(ctx, `SELECT q.tenant, q.name, q.max_attempts FROM queues q
		JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::text[])) AS w (tenant, name) ON q.tenant = w.tenant AND q.name = w.name`, tenants, names)
	if err != nil {
		return nil, err
	}
	most := map[tenantQueue]int{}
	var q tenantQueue
	var n int
	_, err = pgx.ForEachRow(rows, []any{&q.tenant, &q.queue.name, &n}, func() error {
		most[q] = n
		return nil
	})
	return most, err
}
