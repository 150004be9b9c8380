package tenant_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/tenant"
)

func withQuotas(ctx context.Context, quotas map[string]int64) context.Context {
	return auth.With(ctx, &auth.Principal{ID: "x", Tenant: auth.Tenant{Name: "acme", Quotas: quotas}})
}

// Concurrent calls do not create more than the quota allows.
func TestExactQuota(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	q := queues(0)
	if _, err := f.CreateTenant(t.Context(), tenant.Tenant{Name: "acme", Quotas: map[string]int64{"queues": 10}}); err != nil {
		t.Fatal(err)
	}
	ctx := auth.AsService(t.Context(), "acme")
	var made, refused atomic.Int64
	var trying sync.WaitGroup
	for i := range 50 {
		trying.Go(func() {
			err := f.db.InTx(ctx, func(tx *pg.Tx) error {
				if err := q.Take(ctx, tx, 1); err != nil {
					return err
				}
				// There is room, and other calls check the quota before this one is committed.
				_, err := tx.Exec(ctx, `INSERT INTO queues (tenant, name) SELECT 'acme', $1 FROM pg_sleep(0.02)`, named("q", i))
				return err
			})
			var known *errs.Error
			switch {
			case err == nil:
				made.Add(1)
			case errors.As(err, &known) && known.Reason == "QUOTA_EXCEEDED" && known.Kind == errs.ResourceExhausted:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	trying.Wait()
	if made.Load() != 10 || refused.Load() != 40 {
		t.Errorf("%d were made and %d refused", made.Load(), refused.Load())
	}
}

func TestWhoseQuota(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.tenant(t, "acme")
	q := queues(0)
	take := func(ctx context.Context, n int64) error {
		return f.db.InTx(ctx, func(tx *pg.Tx) error { return q.Take(ctx, tx, n) })
	}
	for _, test := range []struct {
		quotas map[string]int64
		n      int64
		ok     bool
	}{{nil, 3, true}, {nil, 4, false}, {map[string]int64{"queues": 5}, 5, true}, {map[string]int64{"queues": 2}, 3, false}, {map[string]int64{"queues": 0}, 1000, true}} {
		if _, err := f.UpdateTenant(t.Context(), "acme", func(c *tenant.Tenant) { c.Quotas = test.quotas }); err != nil {
			t.Fatal(err)
		}
		// It applies to everybody who acts for the tenant, whatever their principal says about it.
		for who, ctx := range map[string]context.Context{
			"the service": auth.AsService(t.Context(), "acme"), "a principal": withQuotas(t.Context(), map[string]int64{"queues": 1_000_000}),
		} {
			if err := take(ctx, test.n); (err == nil) != test.ok {
				t.Errorf("%s, %v, %d more: %v", who, test.quotas, test.n, err)
			}
		}
	}
	if got := q.Limit(withQuotas(t.Context(), map[string]int64{"queues": 2})); got != 2 {
		t.Errorf("the limit is %d", got)
	}
}

// What was read is used for a while, plus what was taken since, for each tenant by itself.
func TestFreshCount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	take := func(ctx context.Context, q *tenant.Quota, n int64) error {
		return f.db.InTx(ctx, func(tx *pg.Tx) error { return q.Take(ctx, tx, n) })
	}
	ctx := auth.AsService(t.Context(), "acme")
	if err := f.queue(ctx, "acme", "one"); err != nil {
		t.Fatal(err)
	}
	long := queues(time.Hour)
	for range 2 {
		if err := take(ctx, long, 1); err != nil {
			t.Fatal(err)
		}
	}
	wantKind(t, take(ctx, long, 1), errs.ResourceExhausted)
	if _, err := f.db.Exec(ctx, `DELETE FROM queues`); err != nil {
		t.Fatal(err)
	}
	wantKind(t, take(ctx, long, 1), errs.ResourceExhausted)
	if err := take(auth.AsService(t.Context(), "other"), long, 3); err != nil {
		t.Error(err)
	}
	brief := queues(time.Millisecond)
	for range 3 {
		if err := take(ctx, brief, 3); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Millisecond)
	}
}
