package tenant

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"plinth/internal/auth"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// Whatever concurrent transactions do, committed or not, the usage of each tenant is what it has, before and after the
// deltas are added up.
func TestUsageIsWhatIsThere(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 8)
	q := NewQuota(QuotaConfig{Name: "queues", What: "queues"})
	p.Register(q)
	over := make(chan struct{})
	var working, folding sync.WaitGroup
	for range 3 {
		folding.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if _, err := foldUsage(t.Context(), p.system, 7); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for worker := range 4 {
		working.Go(func() {
			for n := range 40 {
				ctx := auth.AsService(t.Context(), []string{"a", "b"}[rand.N(2)])
				_ = p.db.InTx(ctx, func(tx *pg.Tx) error { return change(ctx, tx, worker, n) })
			}
		})
	}
	working.Wait()
	close(over)
	folding.Wait()
	var all int
	if err := p.owner.QueryRow(t.Context(), `SELECT least((SELECT count(*) FROM queues), (SELECT count(*) FROM message_waiting))`).Scan(&all); err != nil || all == 0 {
		t.Fatalf("nothing was made: %v", err)
	}
	for range 2 {
		for _, tenant := range []string{"a", "b", "c"} {
			var queues, waiting, bytes int64
			err := p.owner.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM queues WHERE tenant = $1), count(*), coalesce(sum(octet_length(body)), 0)
				FROM message_waiting WHERE tenant = $1`, tenant).Scan(&queues, &waiting, &bytes)
			if err != nil {
				t.Fatal(err)
			}
			for resource, want := range map[string]int64{"queues": queues, "waiting_messages": waiting, "waiting_bytes": bytes} {
				// As the system sees it, and as the tenant does.
				for _, db := range []pg.Querier{p.system, p.db} {
					if n, _, err := selectUsage(auth.AsService(t.Context(), tenant), db, tenant, resource); n != want || err != nil {
						t.Errorf("%s of %s: %d, %v; there are %d", resource, tenant, n, err, want)
					}
				}
			}
		}
		if err := p.foldUsage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var deltas int
	if err := p.owner.QueryRow(t.Context(), `SELECT count(*) FROM tenant_usage_deltas`).Scan(&deltas); err != nil || deltas != 0 {
		t.Errorf("%d differences are not added up, %v", deltas, err)
	}
}

// change inserts and deletes rows at random, and fails one time in four.
func change(ctx context.Context, tx *pg.Tx, worker, n int) error {
	name := fmt.Sprintf("%d-%d", worker, n)
	for _, sql := range []string{
		`INSERT INTO queues (tenant, name) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
		`INSERT INTO message_waiting (tenant, id, queue, due_at, body) SELECT $1, gen_random_uuid(), $2, now(), repeat('x', i)::bytea FROM generate_series(1, 5) i`,
		`DELETE FROM message_waiting WHERE tenant = $1 AND (queue, id) IN (SELECT queue, id FROM message_waiting WHERE queue < $2 LIMIT 7 FOR UPDATE SKIP LOCKED)`,
		`INSERT INTO message_waiting AS w SELECT * FROM message_waiting WHERE tenant = $1 AND queue < $2 LIMIT 3
			ON CONFLICT (tenant, id, queue) DO UPDATE SET attempts = w.attempts + 1`,
		`DELETE FROM queues WHERE ctid IN (SELECT ctid FROM queues WHERE tenant = $1 AND name < $2 LIMIT 1 FOR UPDATE SKIP LOCKED)`,
	} {
		if rand.N(2) == 0 {
			continue
		}
		if _, err := tx.Exec(ctx, sql, auth.TenantOf(ctx), name); err != nil {
			return err // Transactions that change the same rows in another order may deadlock.
		}
	}
	if rand.N(4) == 0 {
		return fmt.Errorf("rolled back")
	}
	return nil
}

// A process that was stopped while it deleted a tenant does not touch a later tenant of that name.
func TestDeletionComesTooLate(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	if _, err := p.CreateTenant(t.Context(), Tenant{Name: "acme"}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.owner.Exec(t.Context(), `INSERT INTO queues (tenant, name) VALUES ('acme', 'q')`); err != nil {
		t.Fatal(err)
	}
	if _, err := p.deleteSome(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	got, err := p.GetTenant(t.Context(), "acme")
	if n, _, err := selectUsage(t.Context(), p.system, "acme", "queues"); err != nil || n != 1 {
		t.Errorf("%d queues are left, %v", n, err)
	}
	if err != nil || got.isDeleted() {
		t.Errorf("%+v, %v", got, err)
	}
}
