package tenant

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// rows returns a quota of 10 whose usage is had, and counts in asked how often that is read. A read takes a while, or until
// another one begins, which must not happen.
func rows(fresh time.Duration, had *atomic.Int64) (q *Quota, c *clock, asked *atomic.Int64) {
	asked = &atomic.Int64{}
	q = NewQuota(QuotaConfig{Name: "rows", What: "rows", Most: 10, Fresh: fresh})
	q.read = func(context.Context, pg.Querier, string, string) (int64, *int64, error) {
		for n, end := asked.Add(1), time.Now().Add(50*time.Millisecond); asked.Load() == n && time.Now().Before(end); {
			runtime.Gosched()
		}
		return had.Load(), nil, nil
	}
	c = &clock{start: time.Now()}
	q.now = c.read
	return q, c, asked
}

// However many concurrent calls there are, a process does not take more than there is room for, and reads the usage once for
// all of them.
func TestFreshQuotaOfManyAtOnce(t *testing.T) {
	t.Parallel()
	q, c, asked := rows(time.Second, &atomic.Int64{})
	ctx := auth.AsService(t.Context(), "acme")
	for round := range 2 {
		var taken atomic.Int64
		var trying sync.WaitGroup
		for range 50 {
			trying.Go(func() {
				switch err := q.Take(ctx, nil, 1); {
				case err == nil:
					taken.Add(1)
				case !errs.Is(err, errs.ResourceExhausted):
					t.Error(err)
				}
			})
		}
		trying.Wait()
		if taken.Load() != 10 || asked.Load() != int64(round+1) {
			t.Errorf("%d were taken, counted %d times", taken.Load(), asked.Load())
		}
		c.pass(time.Second - 1)
		if err := q.Take(ctx, nil, 1); !errs.Is(err, errs.ResourceExhausted) {
			t.Error(err)
		}
		c.pass(1)
	}
}

// The errors when the quota is used up.
func TestQuotaExceeded(t *testing.T) {
	t.Parallel()
	had := &atomic.Int64{}
	had.Store(8)
	q, _, _ := rows(time.Second, had)
	ctx := auth.AsService(t.Context(), "acme")
	if err := q.Take(ctx, nil, 2); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int64]string{
		1: "quota: the tenant has 10 rows; at most 10 are allowed",
		5: "quota: the tenant has 10 rows, and 5 more are asked for; at most 10 are allowed",
	} {
		var e *errs.Error
		if err := q.Take(ctx, nil, n); !errors.As(err, &e) || e.Kind != errs.ResourceExhausted || e.Reason != "QUOTA_EXCEEDED" || e.Message != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Without a limit no call waits for another. Taking nothing does not read the usage. After a failed read the next call reads
// again.
func TestQuotaAsksNothingForNothing(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, fresh := range []time.Duration{0, time.Second} {
		q := NewQuota(QuotaConfig{Name: "rows", What: "rows", Fresh: fresh})
		q.read = func(context.Context, pg.Querier, string, string) (int64, *int64, error) { return 0, nil, nil }
		ctx := auth.AsService(t.Context(), "acme")
		if err := q.Take(ctx, nil, 1_000_000); err != nil {
			t.Errorf("no limit: %v", err)
		}
		q.counts = map[string]*counted{}
		q.read = func(context.Context, pg.Querier, string, string) (int64, *int64, error) { return 0, nil, broken }
		if err := q.Take(ctx, nil, 0); err != nil {
			t.Errorf("nothing: %v", err)
		}
		for range 2 {
			if err := q.Take(ctx, nil, 1); !errors.Is(err, broken) {
				t.Error(err)
			}
		}
	}
}

// A call that waits for a read of another call ends when its own context does.
func TestWaitingForACountEnds(t *testing.T) {
	t.Parallel()
	q, _, _ := rows(time.Second, &atomic.Int64{})
	q.counted("acme").turn <- struct{}{}
	ctx, cancel := context.WithCancel(auth.AsService(t.Context(), "acme"))
	cancel()
	if err := q.Take(ctx, nil, 1); !errs.Is(err, errs.Canceled) {
		t.Error(err)
	}
	if err := q.Take(auth.AsService(t.Context(), "other"), nil, 1); err != nil {
		t.Errorf("another tenant waits, too: %v", err)
	}
}

func TestCountsAreBounded(t *testing.T) {
	t.Parallel()
	q, _, _ := rows(time.Second, &atomic.Int64{})
	for i := range 2*maxCounts + 1 {
		q.counted(string(rune('a'+i%26)) + time.Duration(i).String())
		if len(q.counts) > maxCounts {
			t.Fatalf("%d counts are remembered", len(q.counts))
		}
	}
}
