package share_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/share"
)

func newPool(capacity, times, small int64) *share.Pool {
	return share.New(share.Config{Capacity: func() int64 { return capacity }, Times: times, Small: small, Waiters: 10})
}

// takes returns how often an owner gets n without waiting.
func takes(t *testing.T, p *share.Pool, owner string, n int64) (got int) {
	t.Helper()
	for {
		switch err := p.Acquire(t.Context(), owner, n, 0); {
		case err == nil:
			got++
		case errors.Is(err, share.ErrFull):
			return got
		default:
			t.Fatal(err)
		}
	}
}

func TestShares(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		capacity, times, small int64
		take                   []int64 // by one owner after the other, each as often as it can
		want                   []int
	}{
		{12, 3, 1, []int64{1, 1, 1, 1}, []int{9, 2, 1, 0}},
		{10_000, 3, 1, []int64{1, 1, 1}, []int{7500, 1875, 468}},
		{128, 1, 2, []int64{1, 1, 1}, []int{64, 32, 16}},
		{128, 1, 2, []int64{12, 1, 12}, []int{4, 40, 1}}, // 60 would be half of the rest and more
		{1, 3, 1, []int64{1, 1}, []int{1, 0}},
	} {
		p := newPool(test.capacity, test.times, test.small)
		for i, n := range test.take {
			if got := takes(t, p, fmt.Sprint("owner ", i), n); got != test.want[i] {
				t.Errorf("%d of %d by %v: owner %d gets %d times %d, want %d", i, test.capacity, test.times, i, got, n, test.want[i])
			}
		}
	}
	if got := takes(t, newPool(12, 3, 1), share.Nobody, 1); got != 12 {
		t.Errorf("nobody in particular gets %d of 12", got)
	}
}

// An owner that has as much large ones as it may still gets small ones.
func TestSmallAmounts(t *testing.T) {
	t.Parallel()
	p := newPool(1000, 1, 10)
	large, small := takes(t, p, "a", 50), takes(t, p, "a", 10)
	if large != 8 || small != 10 {
		t.Errorf("got %d large and %d small ones", large, small)
	}
}

// waits has an owner wait for n, and returns once it does. The order in which waiters are served is sent to order.
func waits(t *testing.T, p *share.Pool, owner string, n int64, order chan<- string) {
	t.Helper()
	began := p.Waiting()
	go func() {
		if err := p.Acquire(t.Context(), owner, n, time.Minute); err != nil {
			order <- err.Error()
			return
		}
		order <- owner
	}()
	for deadline := time.Now().Add(10 * time.Second); p.Waiting() == began; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not wait")
		}
	}
}

// Owners are served in turn, however many of their callers wait.
func TestTurns(t *testing.T) {
	t.Parallel()
	p := newPool(1, 3, 1)
	takes(t, p, "first", 1)
	order := make(chan string, 10)
	for _, owner := range []string{"a", "a", "a", "a", "b", "c"} {
		waits(t, p, owner, 1, order)
	}
	var served []string
	for last := "first"; len(served) < 6; {
		p.Release(last, 1)
		last = <-order
		served = append(served, last)
	}
	if want := []string{"a", "b", "c", "a", "a", "a"}; !slices.Equal(served, want) {
		t.Errorf("served %v, want %v", served, want)
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	p := newPool(4, 3, 1)
	takes(t, p, "a", 1)
	began := time.Now()
	if err := p.Acquire(t.Context(), "a", 1, 20*time.Millisecond); !errors.Is(err, share.ErrFull) || time.Since(began) < 20*time.Millisecond {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := p.Acquire(ctx, "a", 1, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	order := make(chan string, 20)
	for range 10 {
		waits(t, p, "a", 1, order)
	}
	if err := p.Acquire(t.Context(), "a", 1, time.Minute); !errors.Is(err, share.ErrFull) {
		t.Errorf("one waiter too many got %v", err)
	}
	if err := p.Acquire(t.Context(), "b", 1, 0); err != nil {
		t.Errorf("another owner got %v", err)
	}
}

// A small amount does not wait behind a large one, and what waited behind one that gave up is served.
func TestSmallBeforeLarge(t *testing.T) {
	t.Parallel()
	p := newPool(100, 1, 1)
	if err := p.Acquire(t.Context(), "a", 30, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { gone <- p.Acquire(ctx, "a", 50, time.Minute) }()
	for p.Waiting() == 0 {
		<-time.After(time.Millisecond)
	}
	if err := p.Acquire(t.Context(), "a", 1, 0); err != nil {
		t.Errorf("a small amount got %v", err)
	}
	order := make(chan string, 1)
	waits(t, p, "a", 2, order)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if served := <-order; served != "a" {
		t.Error(served)
	}
}

// Whatever happens at the same time: never is more in use than there is, and in the end nothing is.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	const capacity = 100
	p := share.New(share.Config{Capacity: func() int64 { return capacity }, Times: 1, Small: 3, Waiters: 100})
	var used atomic.Int64
	var callers sync.WaitGroup
	for i := range 40 {
		callers.Go(func() {
			owner := fmt.Sprint(i % 5)
			for range 500 {
				n := 1 + rand.Int64N(20)
				if p.Acquire(t.Context(), owner, n, time.Duration(rand.Int64N(int64(time.Millisecond)))) != nil {
					continue
				}
				if now := used.Add(n); now > capacity {
					t.Errorf("%d in use of %d", now, capacity)
				}
				used.Add(-n)
				p.Release(owner, n)
			}
		})
	}
	callers.Wait()
	if used, waiting := p.Used(), p.Waiting(); used != 0 || waiting != 0 {
		t.Errorf("%d in use, %d waiting", used, waiting)
	}
}
