package message_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// uses makes the tenant have ten of a resource, of which it may have ten.
func (f fixture) uses(t *testing.T, resource string) {
	t.Helper()
	f.exec(t, `INSERT INTO tenant_usage (tenant, resource, n, quota) VALUES ('default', $1, 10, 10)
		ON CONFLICT (tenant, resource) DO UPDATE SET n = 10, quota = 10`, resource)
}

// TestQuotasByOrigin publishes in transactions what a client asked for and what the service tells of, while a quota is used up.
func TestQuotasByOrigin(t *testing.T) {
	t.Parallel()
	for quota, refused := range map[string][]message.Origin{
		"dead_letters":     {message.FromClient},
		"queue_messages":   {},
		"queue_bytes":      {},
		"waiting_messages": {message.FromClient, message.Event},
		"waiting_bytes":    {message.FromClient, message.Event},
	} {
		t.Run(quota, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, false)
			f.uses(t, quota)
			q := f.queue(t, "orders")
			for _, origin := range []message.Origin{message.FromClient, message.Event, message.EndEvent} {
				p := message.Publication{To: message.ToQueue(q), Body: []byte("body"), Origin: origin}
				for way, err := range f.inTransactions(t, p) {
					if want := slices.Contains(refused, origin); errs.Is(err, errs.ResourceExhausted) != want || !want && err != nil {
						t.Errorf("%s of origin %d: %v", way, origin, err)
					}
				}
			}
		})
	}
}

// inTransactions publishes by each of the ways to do so in a transaction.
func (f fixture) inTransactions(t *testing.T, p message.Publication) map[string]error {
	t.Helper()
	outcomes := map[string]error{}
	err := f.db.InTx(within(t), func(tx *pg.Tx) error {
		_, err := f.PublishTx(within(t), tx, p)
		outcomes["PublishTx"] = err
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = f.system.InTx(within(t), func(tx *pg.Tx) error {
		results, err := f.PublishBatchTx(within(t), tx, []message.TenantPublication{{Tenant: "default", Publication: p}})
		if err == nil {
			outcomes["PublishBatchTx"] = results[0].Err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return outcomes
}

// TestDuplicateAboveQuota publishes again what was published before the quota was used up.
func TestDuplicateAboveQuota(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	p := message.Publication{To: message.ToQueue(q), IdempotencyKey: "k", Body: []byte("body")}
	first := f.one(t, p)
	if first.Err != nil {
		t.Fatal(first.Err)
	}
	f.uses(t, "dead_letters")
	f.Service = f.process(t, message.Limits{})
	other := p
	other.IdempotencyKey = "other"
	if r := f.one(t, other); !errs.Is(r.Err, errs.ResourceExhausted) {
		t.Errorf("above the quota: %+v", r)
	}
	if r := f.one(t, p); r.Err != nil || !r.Duplicate || r.ID != first.ID {
		t.Errorf("again: %+v", r)
	}
}

// TestQuotaOfQueuesInABatch has a batch in a transaction create a queue too many. The other tenant's message is published.
func TestQuotaOfQueuesInABatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t, true)
	f.Service = f.process(t, message.Limits{AutoCreate: true, Queues: 1})
	batch := []message.TenantPublication{
		{Tenant: "a", Publication: to(name(t, "first"), "")}, {Tenant: "b", Publication: to(name(t, "first"), "")},
		{Tenant: "b", Publication: to(name(t, "second"), "")}, {Tenant: "a", Publication: to(name(t, "first"), "")},
	}
	err := f.system.InTx(within(t), func(tx *pg.Tx) error {
		results, err := f.PublishBatchTx(within(t), tx, batch)
		if err != nil {
			return err
		}
		refused := 0
		for i, r := range results {
			if errs.Is(r.Err, errs.ResourceExhausted) && batch[i].Tenant == "b" { // One of its two queues was first.
				refused++
			} else if r.Err != nil {
				t.Errorf("message %d: %v", i, r.Err)
			}
		}
		if refused != 1 {
			t.Errorf("%d are refused", refused)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestQuotasAreAskedWithoutATransaction publishes while what the tenants have cannot be read.
func TestQuotasAreAskedWithoutATransaction(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	keyed := message.Publication{To: message.ToQueue(q), IdempotencyKey: "k"}
	for way, publish := range map[string]func(context.Context) error{
		"one":     func(ctx context.Context) error { _, err := f.Publish(ctx, keyed); return err },
		"a batch": func(ctx context.Context) error { return f.PublishBatch(ctx, []message.Publication{keyed})[0].Err },
	} {
		eventually(t, way+" is seen while it asks", func() bool { return f.asksWithoutTransaction(t, publish) })
		f.Service = f.process(t, message.Limits{}) // It knows nothing of the tenant.
	}
}

// asksWithoutTransaction reports whether publish was seen while it waited for what the tenant has, and fails the test if a transaction was
// open then.
func (f fixture) asksWithoutTransaction(t *testing.T, publish func(context.Context) error) (seen bool) {
	t.Helper()
	owner := pgtest.Owner(t, f.url)
	lock, err := owner.Begin(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(within(t), `LOCK TABLE tenant_usage`); err != nil {
		t.Fatal(err)
	}
	published := make(chan error, 1)
	go func() { published <- publish(within(t)) }()
	open := 0
	for deadline := time.Now().Add(time.Second); !seen && time.Now().Before(deadline); {
		if err := owner.QueryRow(within(t), `
			SELECT count(*) FILTER (WHERE wait_event_type = 'Lock' AND query LIKE '%unnest($2::text[]) WITH ORDINALITY%') > 0,
				count(*) FILTER (WHERE state = 'idle in transaction' AND query NOT LIKE 'LOCK %')
			FROM pg_stat_activity WHERE datname = current_database()`).Scan(&seen, &open); err != nil {
			t.Fatal(err)
		}
	}
	if seen && open > 0 {
		t.Errorf("%d transactions are open", open)
	}
	if err := lock.Rollback(within(t)); err != nil {
		t.Error(err)
	}
	if err := <-published; err != nil {
		t.Error(err)
	}
	return seen
}
