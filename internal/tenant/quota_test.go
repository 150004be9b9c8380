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

// However many try at the same time, no more are made than the quota has.
func TestExactQuota(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	q := queues(0)
	ctx := withQuotas(t.Context(), map[string]int64{"queues": 10})
	var made, refused atomic.Int64
	var trying sync.WaitGroup
	for i := range 50 {
		trying.Go(func() {
			err := f.db.InTx(ctx, func(tx *pg.Tx) error {
				if err := q.Take(ctx, tx, 1); err != nil {
					return err
				}
				// There is room, and others look while this one is not committed.
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
	q := queues(0)
	take := func(ctx context.Context, n int64) error {
		return f.db.InTx(ctx, func(tx *pg.Tx) error { return q.Take(ctx, tx, n) })
	}
	for _, test := range []struct {
		quotas map[string]int64
		n      int64
		ok     bool
	}{{nil, 3, true}, {nil, 4, false}, {map[string]int64{"queues": 5}, 5, true}, {map[string]int64{"queues": 2}, 3, false}, {map[string]int64{"queues": 0}, 1000, true}} {
		if err := take(withQuotas(t.Context(), test.quotas), test.n); (err == nil) != test.ok {
			t.Errorf("%v, %d more: %v", test.quotas, test.n, err)
		}
	}
	if got := q.Limit(withQuotas(t.Context(), map[string]int64{"queues": 2})); got != 2 {
		t.Errorf("the limit is %d", got)
	}
}

// A count that is used again costs no question, counts what was taken since, and is one tenant's own.
func TestFreshCount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	asked := 0
	take := func(ctx context.Context, q *tenant.Quota, n int64) error {
		return f.db.InTx(ctx, func(tx *pg.Tx) error { return q.Take(ctx, tx, n) })
	}
	q := tenant.NewQuota("rows", "rows", 10, func(context.Context, pg.Querier) (int64, error) { asked++; return 4, nil }, time.Hour)
	ctx := withQuotas(t.Context(), nil)
	for range 6 {
		if err := take(ctx, q, 1); err != nil {
			t.Fatal(err)
		}
	}
	wantKind(t, take(ctx, q, 1), errs.ResourceExhausted)
	if err := take(auth.AsService(t.Context(), "other"), q, 1); err != nil {
		t.Error(err)
	}
	if asked != 2 {
		t.Errorf("it was counted %d times for two tenants", asked)
	}
	brief := tenant.NewQuota("rows", "rows", 10, func(context.Context, pg.Querier) (int64, error) { asked++; return 4, nil }, time.Millisecond)
	asked = 0
	for range 3 {
		if err := take(ctx, brief, 6); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Millisecond)
	}
	if asked != 3 {
		t.Errorf("it was counted %d times", asked)
	}
}
