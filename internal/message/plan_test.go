package message_test

import (
	"testing"
	"time"

	"plinth/internal/message"
	"plinth/internal/pg"
)

// large are the tables that may have millions of rows.
const large = `'{message_waiting,message_keys,message_handled,dead_letters,dead_letter_operation_items,broker_messages}'::text[]`

// byReason is how many dead letters a step of a list by a reason reads at most: it looks for the end of the step, and then at each.
const byReason = 2 * 20_000

const (
	fromBeginning = `coalesce(seq_tup_read, 0)`
	inAnyWay      = fromBeginning + ` + coalesce(idx_tup_fetch, 0)`
)

// read returns how many rows of the large tables were read, by all connections that are closed.
func (f fixture) read(t *testing.T, how string) map[string]int64 {
	t.Helper()
	rows, err := f.owner.Query(within(t), `SELECT relname::text, `+how+` FROM pg_stat_user_tables
		WHERE schemaname = current_schema() AND relname = ANY (`+large+`)`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	read := map[string]int64{}
	for rows.Next() {
		var table string
		var n int64
		if err := rows.Scan(&table, &n); err != nil {
			t.Fatal(err)
		}
		read[table] = n
	}
	return read
}

// crowd inserts n rows into each large table, for a queue and one beside it.
func (f fixture) crowd(t *testing.T, q, beside message.QueueName, n int) {
	t.Helper()
	for _, of := range []message.QueueName{q, beside} {
		for _, sql := range []string{
			`INSERT INTO dead_letters (tenant, id, queue, message_id, reason, folded_reason, attempts, first_failed_at, last_failed_at, headers, attributes, body)
				SELECT 'default', gen_random_uuid(), $1, gen_random_uuid(), 'because', 'because', 3, now(), now() - interval '1 millisecond' * n, '{}', '{}', ''
				FROM generate_series(1, $2) n`,
			`INSERT INTO message_waiting (tenant, id, queue, due_at, body)
				SELECT 'default', gen_random_uuid(), $1, now() + interval '1 hour' + interval '1 millisecond' * n, '' FROM generate_series(1, $2) n`,
			`INSERT INTO message_keys (tenant, destination, key, id) SELECT 'default', $1, $1 || n, gen_random_uuid() FROM generate_series(1, $2) n`,
			`INSERT INTO message_handled (tenant, consumer, message_id) SELECT 'default', $1, gen_random_uuid() FROM generate_series(1, $2)`,
			`INSERT INTO broker_messages (queue_id, tenant, id, attributes, body)
				SELECT q.id, 'default', gen_random_uuid(), '{}', '' FROM broker_queues q, generate_series(1, $2) WHERE q.name = 'default.' || $1`,
		} {
			if _, err := f.owner.Exec(t.Context(), sql, of.String(), n/2); err != nil { // Without a limit to its time.
				t.Fatal(err)
			}
		}
	}
}

// TestNothingReadsWholeTables has very many rows in each table, and does what calls and the background do. PostgreSQL tells which tables
// were read from their beginning.
func TestNothingReadsWholeTables(t *testing.T) {
	t.Parallel()
	n := atFullLength(1_000_000, 50_000)
	f := newFixture(t, false)
	q, beside, small := f.queue(t, "large"), f.queue(t, "beside"), f.queue(t, "small")
	f.crowd(t, q, beside, n)
	ids := f.letters(t, small, 10)
	f.schema(t, `ANALYZE message_waiting, message_keys, message_handled, dead_letters, broker_messages`)
	db, err := pg.Open(t.Context(), pg.Config{URL: f.url, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	other := f
	other.db, other.system = db, db.System()
	other.Service = other.process(t, message.Limits{})
	before := f.read(t, inAnyWay)

	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, _, err = other.ListDeadLetters(within(t), q, message.Filter{Reason: "nothing"}, 10, "")
	must("a list by a reason", err)
	_, _, err = other.ListDeadLetters(within(t), q, message.Filter{}, 10, "")
	must("a list", err)
	_, _, err = other.RedriveDeadLetters(within(t), small, message.Choice{IDs: ids[:5]}, 0)
	must("a redrive", err)
	_, _, err = other.PurgeDeadLetters(within(t), small, message.Choice{Filter: &message.Filter{}})
	must("a purge", err)
	for _, key := range []string{"new", "new", ""} {
		r, err := other.Publish(within(t), message.Publication{To: message.ToQueue(q), Delay: time.Hour, IdempotencyKey: key})
		must("a publication", err)
		if key == "" {
			_, err = other.GetMessage(within(t), r.ID)
			must("a waiting message", err)
			must("a cancel", other.CancelMessage(within(t), r.ID))
		}
	}
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, body) VALUES ('default', gen_random_uuid(), 'small', now(), '')`)
	stop := run(t, other.Relay)
	for range 6 { // That one, and those that were redriven.
		m := other.pullOne(t, request(small, 1))
		other.ack(t, small, m.Receipt, 0)
	}
	stop()
	must("a sweep", other.Sweep(within(t)))
	_, err = other.StepAll(within(t))
	must("operations", err)
	db.Close()

	eventually(t, "what the connections did is told", func() bool {
		return f.count(t, `SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'message_keys' AND schemaname = current_schema()`) > n
	})
	after := f.read(t, inAnyWay)
	for table, read := range after {
		if read -= before[table]; read >= int64(n)/2+byReason {
			t.Errorf("%d rows of %s were read", read, table)
		}
	}
}

// TestRelayOfATableThatWasEmpty has a relay send single messages, for which the server keeps plans, and then very many at once.
func TestRelayOfATableThatWasEmpty(t *testing.T) {
	t.Parallel()
	const n = 20_000
	f := newFixture(t, false)
	q := f.queue(t, "bursts")
	db, err := pg.Open(t.Context(), pg.Config{URL: f.url, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	other := f
	other.db, other.system = db, db.System()
	other.Service = other.process(t, message.Limits{})
	stop := run(t, other.Relay)
	for range 40 {
		f.publishTx(t, to(q, "one"))
		f.drained(t)
	}
	before := f.read(t, fromBeginning)["message_waiting"]
	if _, err := f.owner.Exec(t.Context(), `INSERT INTO message_waiting (tenant, id, queue, due_at, body)
		SELECT 'default', gen_random_uuid(), 'bursts', now(), '' FROM generate_series(1, $1::int)`, n); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are sent", func() bool { // To count the rows that wait would read the table.
		return f.count(t, `SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'message_waiting' AND schemaname = current_schema()`) >= n
	})
	stop()
	db.Close()
	if read := f.read(t, fromBeginning)["message_waiting"] - before; read >= n {
		t.Errorf("%d rows were read from the beginning of the table", read)
	}
}
