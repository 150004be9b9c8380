package postgres

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"plinth/internal/broker"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// explainer fails the test if the plan of a statement reads all messages, where the planner may choose to (internal/pg has it not).
type explainer struct {
	*pg.System
	t    *testing.T
	what string
}

func (e *explainer) explain(ctx context.Context, sql string, args []any) {
	e.t.Helper()
	var plan []string
	err := e.InTx(ctx, func(tx *pg.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL enable_seqscan = on`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "EXPLAIN "+sql, args...)
		if err == nil {
			plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return err
	})
	if err != nil {
		e.t.Fatalf("%s: %v", e.what, err)
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "Seq Scan on broker_messages") {
		e.t.Errorf("%s reads all messages:\n%s", e.what, text)
	}
}

func (e *explainer) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	e.explain(ctx, sql, args)
	return e.System.Exec(ctx, sql, args...)
}

func (e *explainer) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	e.explain(ctx, sql, args)
	return e.System.Query(ctx, sql, args...)
}

func (e *explainer) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	e.explain(ctx, sql, args)
	return e.System.QueryRow(ctx, sql, args...)
}

// TestPlansWithManyMessages has one queue with very many messages, of which a tenth is leased, beside many empty ones. No
// statement of the broker reads all messages, whether or not the database has statistics of them.
func TestPlansWithManyMessages(t *testing.T) {
	t.Parallel()
	messages := 100_000
	if os.Getenv("CI") == "true" {
		messages = 1_000_000
	}
	url := pgtest.New(t)
	owner := pgtest.Owner(t, url)
	db := openDB(t, url).System()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := owner.Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO broker_queues (name, max_length, room) SELECT 'default.q' || n, CASE n WHEN 1 THEN 2000000 ELSE 0 END,
		CASE n WHEN 1 THEN 0 END FROM generate_series(1, 10000) n`)
	var full int64
	if err := owner.QueryRow(ctx, `SELECT id FROM broker_queues WHERE name = 'default.q1'`).Scan(&full); err != nil {
		t.Fatal(err)
	}
	exec(`INSERT INTO broker_messages (queue_id, tenant, id, attributes, body, lease, available_at)
		SELECT $1, 'default', gen_random_uuid(), '{}', '', CASE WHEN n % 10 = 0 THEN gen_random_uuid() END,
			now() + CASE WHEN n % 10 = 0 THEN interval '1 hour' ELSE '0' END
		FROM generate_series(1, $2::int) n`, full, messages)
	for _, analyzed := range []bool{false, true} {
		what := func(s string) *explainer {
			if analyzed {
				s += " with statistics"
			}
			return &explainer{db, t, s}
		}
		if analyzed {
			exec(`ANALYZE broker_messages`)
			exec(`ANALYZE broker_queues`)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		lease := uuid.NewString()
		claimed, err := claimMessages(ctx, what("a claim"), claim{queue: full, limit: maxClaim, bytes: maxHeld, lease: lease, duration: time.Minute})
		must(err)
		if len(claimed) != maxClaim {
			t.Fatalf("%d messages claimed", len(claimed))
		}
		_, err = claimMessages(ctx, what("a claim of nothing"), claim{queue: full + 1, limit: maxClaim, bytes: maxHeld, lease: uuid.NewString(), duration: time.Minute})
		must(err)
		must(renewLeases(ctx, what("a renewal"), claimed, time.Minute))
		must(returnMessages(ctx, what("a return"), claimed[:10]))
		_, err = deleteMessages(ctx, what("an ack"), claimed[10:20])
		must(err)
		claimed[20].attempt = 2
		_, err = countAttempt(ctx, what("a count of an attempt"), claimed[20])
		must(err)
		must(returnLease(ctx, what("the return of a claim"), full, lease))
		queues := []int64{full}
		for n := range int64(watchedAtOnce) {
			queues = append(queues, full+1+n)
		}
		woken, err := queuesToWake(ctx, what("a poll"), queues)
		must(err)
		if len(woken) != 1 || woken[0] != full {
			t.Errorf("the poll wakes %v", woken)
		}
		_, _, err = endLapsed(ctx, what("the end of leases"), lapsedBatch)
		must(err)
		_, err = deleteExpired(ctx, what("expiry"), expireBatch)
		must(err)
		_, _, _, err = purgeMessages(ctx, what("a purge"), full, 0, 1<<60, 100)
		must(err)
		var batch []call[publication]
		for _, queue := range []string{"default.q1", "default.q2"} {
			p, err := newPublication(broker.Publication{To: broker.Address{Queue: queue}, Message: message("more")})
			must(err)
			batch = append(batch, call[publication]{ctx: ctx, value: p})
		}
		placed, err := insertMessages(ctx, what("a publish"), batch)
		must(err)
		for _, p := range placed {
			if p.queue == full && p.kept && !analyzed || p.queue != full && !p.kept {
				t.Errorf("%+v", p)
			}
		}
		must(countRoom(ctx, what("a count of a full queue"), full))
	}
	var room int64
	if err := owner.QueryRow(ctx, `SELECT room FROM broker_queues WHERE id = $1`, full).Scan(&room); err != nil || room <= 0 || room >= 2_000_000 {
		t.Errorf("room for %d, %v", room, err)
	}
}
