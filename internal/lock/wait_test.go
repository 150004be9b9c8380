package lock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
	"plinth/internal/lock"
	"plinth/internal/pg/pgtest"
)

// result is what a waiting call returned.
type result struct {
	lock.Lease
	owner string
	err   error
}

// wait starts a call that waits, and returns once its place is taken.
func (n node) wait(t *testing.T, ctx context.Context, results chan<- result, r lock.Request) {
	t.Helper()
	before := int64(0)
	if l, err := n.Get(ctx, r.Name); err == nil {
		before = l.Waiters
	}
	r.Wait = patience
	go func() {
		l, err := n.Acquire(ctx, r)
		results <- result{l, r.Owner, err}
	}()
	n.waiting(t, ctx, before+1)
}

func TestOrderOfArrival(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	ctx := as(t, "acme")
	nodes := []node{newNode(t, databaseURL), newNode(t, databaseURL)}
	held := nodes[0].acquire(t, ctx, request(t, "holder"))
	results := make(chan result)
	const waiters = 10
	for i := range waiters {
		nodes[i%2].wait(t, ctx, results, request(t, fmt.Sprint(i)))
	}
	for i := range waiters {
		if _, err := nodes[1].Acquire(ctx, request(t, "in a hurry")); !errs.Is(err, errs.Aborted) {
			t.Fatalf("one who does not wait passes %d who do: %v", waiters-i, err)
		}
		nodes[i%2].release(t, ctx, held)
		if _, err := nodes[0].Acquire(ctx, request(t, "in a hurry")); !errs.Is(err, errs.Aborted) {
			t.Fatalf("one who does not wait passes %d who do, the lock is free: %v", waiters-i, err)
		}
		r := <-results
		if r.err != nil || r.owner != fmt.Sprint(i) || r.Token <= held.Token {
			t.Fatalf("%+v got it after %+v, want %d", r, held, i)
		}
		held = r.Lease
	}
}

// A lease that ends by itself goes to the first waiter, at its end.
func TestLeaseEndsByItself(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	r := request(t, "one")
	r.TTL = 2 * time.Second
	one := n.acquire(t, ctx, r)
	results := make(chan result)
	n.wait(t, ctx, results, request(t, "two"))
	if two := <-results; two.err != nil || time.Now().Before(one.End) || two.Token <= one.Token {
		t.Errorf("%+v after %+v", two, one)
	}
}

func TestWaitEnds(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	held := n.acquire(t, ctx, request(t, "one"))
	r := request(t, "two")
	r.Wait = 200 * time.Millisecond
	if _, err := n.Acquire(ctx, r); !errs.Is(err, errs.Aborted) {
		t.Errorf("the wait is over: %v", err)
	}
	brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	r.Wait = patience
	if _, err := n.Acquire(brief, r); !errs.Is(err, errs.DeadlineExceeded) {
		t.Errorf("the call is over: %v", err)
	}
	if left := scalar[int](t, databaseURL, `SELECT count(*) FROM lock_waiters`); left != 0 {
		t.Errorf("%d places are left", left)
	}
	// Whoever leaves when its turn has come tells the next one.
	results := make(chan result)
	stopped := newNode(t, databaseURL)
	leaving, leave := context.WithCancel(ctx)
	stopped.stop() // It does not hear of its turn.
	stopped.wait(t, leaving, make(chan result, 1), request(t, "two"))
	n.wait(t, ctx, results, request(t, "three"))
	n.release(t, ctx, held)
	leave()
	if three := <-results; three.err != nil {
		t.Error(three.err)
	}
}

// What waits in a process that was killed delays the others by its heartbeat alone.
func TestWaiterIsKilled(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, dead, ctx := newNode(t, databaseURL), newNode(t, databaseURL), as(t, "acme")
	held := n.acquire(t, ctx, request(t, "one"))
	dead.wait(t, ctx, make(chan result, 2), request(t, "two"))
	dead.wait(t, ctx, make(chan result, 2), request(t, "three"))
	results := make(chan result)
	n.wait(t, ctx, results, request(t, "four"))
	dead.stop()
	n.release(t, ctx, held)
	began := time.Now()
	if four := <-results; four.err != nil || four.owner != "four" {
		t.Errorf("%+v", four)
	}
	if took := time.Since(began); took < time.Second || took > 15*time.Second {
		t.Errorf("after %v", took)
	}
}

// Notifications may be lost: waiters look by themselves.
func TestNotificationIsLost(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	n.acquire(t, ctx, request(t, "one"))
	results := make(chan result)
	n.wait(t, ctx, results, request(t, "two"))
	exec(t, databaseURL, `UPDATE locks SET lease_id = NULL`)
	if two := <-results; two.err != nil {
		t.Error(two.err)
	}
}

// A client whose connection broke calls another process, and keeps its place.
func TestPlaceIsKept(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, second, ctx := newNode(t, databaseURL), newNode(t, databaseURL), as(t, "acme")
	held := n.acquire(t, ctx, request(t, "one"))
	finishing, finish := context.WithCancel(ctx)
	results := make(chan result, 3)
	two := request(t, "two")
	two.Finishing = finishing.Done()
	n.wait(t, ctx, results, two)
	n.wait(t, ctx, results, request(t, "three"))
	finish()
	if r := <-results; !errs.Is(r.err, errs.Unavailable) || r.owner != "two" {
		t.Fatalf("%+v", r)
	}
	two.Finishing, two.Wait = nil, patience
	go func() {
		l, err := second.Acquire(ctx, two)
		results <- result{l, "two", err}
	}()
	until(t, "the place moves", func() bool {
		return scalar[int](t, databaseURL, `SELECT count(DISTINCT process) FROM lock_waiters`) == 2
	})
	n.release(t, ctx, held)
	r := <-results
	if r.err != nil || r.owner != "two" || r.ID != two.LeaseID {
		t.Fatalf("%+v", r)
	}
	second.release(t, ctx, r.Lease)
	if r = <-results; r.err != nil || r.owner != "three" {
		t.Errorf("%+v", r)
	}
}

// Two calls with one lease in one process, as of a client that lost patience.
func TestCallsAgainWhileItWaits(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	held := n.acquire(t, ctx, request(t, "one"))
	results := make(chan result)
	two := request(t, "two")
	two.Wait = patience
	n.wait(t, ctx, results, two)
	first, cancel := context.WithCancel(ctx)
	for _, ctx := range []context.Context{first, ctx} {
		go func() {
			l, err := n.Acquire(ctx, two)
			results <- result{l, "two", err}
		}()
	}
	cancel()
	if r := <-results; !errs.Is(r.err, errs.Canceled) {
		t.Fatalf("%+v", r)
	}
	n.release(t, ctx, held)
	a, b := <-results, <-results
	if a.err != nil || b.err != nil || a.Token != b.Token || a.ID != two.LeaseID {
		t.Errorf("%+v, %+v", a, b)
	}
}

// A lease that nobody has heard of is ended.
func TestCallerIsGone(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	for range 20 {
		brief, cancel := context.WithTimeout(ctx, 2*time.Millisecond) // About as long as it takes.
		r := request(t, "one")
		r.LeaseID = uuid.Nil
		l, err := n.Acquire(brief, r)
		if cancel(); err == nil {
			n.release(t, ctx, l)
		}
	}
	until(t, "the lock is free", func() bool {
		_, err := n.Get(ctx, name(t, "a"))
		return errs.Is(err, errs.NotFound)
	})
}

// A caller that leaves after the lock was taken for it, and before it hears so, does not keep it for its TTL.
func TestCallerIsGoneWithTheLock(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	for what, fast := range map[string]bool{"correct": false, "fast": true} {
		t.Run(what, func(t *testing.T) {
			r := request(t, "one")
			r.TTL, r.LeaseID, r.Fast = time.Hour, uuid.Nil, fast
			other := request(t, "two")
			other.Fast = fast
			isHeld := func() bool {
				l, err := n.Acquire(ctx, other)
				if err == nil {
					_, _ = n.Release(ctx, l.Name, l.ID, fast)
				}
				return errs.Is(err, errs.Aborted)
			}
			if l, err := n.Acquire(&leaving{Context: ctx, since: isHeld}, r); !errors.Is(err, context.Canceled) {
				t.Errorf("%+v %v", l, err)
			}
			until(t, "the lock is free", func() bool { return !isHeld() })
		})
	}
}

// leaving is a context that has ended since something is so, and of which nobody who is busy with it hears.
type leaving struct {
	context.Context
	since func() bool
	ended atomic.Bool
}

func (l *leaving) Err() error {
	if l.ended.Load() || l.since() {
		l.ended.Store(true)
		return context.Canceled
	}
	return l.Context.Err()
}

// Many take the lock one after the other, in two processes.
func TestHandOver(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	nodes, ctx := []node{newNode(t, databaseURL), newNode(t, databaseURL)}, as(t, "acme")
	results := make(chan result)
	const clients, rounds = 8, 10
	var running sync.WaitGroup
	defer running.Wait()
	for i := range clients {
		running.Go(func() {
			for range rounds {
				r := request(t, fmt.Sprint(i))
				r.Wait = patience
				l, err := nodes[i%2].Acquire(ctx, r)
				results <- result{l, r.Owner, err}
				if err == nil {
					_, err = nodes[i%2].Release(ctx, l.Name, l.ID, false)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	var tokens []int64
	for range clients * rounds {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		tokens = append(tokens, r.Token)
	}
	if !slices.IsSorted(tokens) || len(slices.Compact(tokens)) != clients*rounds {
		t.Errorf("the tokens do not grow: %v", tokens)
	}
}
