package lock_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"

	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
	"plinth/internal/lock"
	"plinth/internal/pg/pgtest"
)

// servers are the kinds of Redis that every test of fast locks runs on.
func servers() map[string]func(t *testing.T) (redisURL string) {
	return map[string]func(t *testing.T) string{
		"in memory": func(t *testing.T) string { return "redis://" + miniredis.RunT(t).Addr() },
		"server":    func(t *testing.T) string { return kvtest.New(t, nil).URL },
		"cluster":   func(t *testing.T) string { return kvtest.NewCluster(t, nil).URL },
		"sentinels": func(t *testing.T) string { return kvtest.NewSentinels(t, nil).URL },
	}
}

func newFastNode(t *testing.T, databaseURL, redisURL string) node {
	t.Helper()
	client, err := kv.Open(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	n, err := start(databaseURL, client, lock.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.stop(); n.db.Close() })
	return n
}

func fastRequest(t *testing.T, owner string) lock.Request {
	r := request(t, owner)
	r.Fast = true
	return r
}

func TestFast(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	for kind, newServer := range servers() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			n, ctx := newFastNode(t, databaseURL, newServer(t)), as(t, "acme")
			r := fastRequest(t, "one")
			one := n.acquire(t, ctx, r)
			if one.Token != 0 || time.Until(one.End) > r.TTL {
				t.Errorf("%+v", one)
			}
			n.acquire(t, ctx, r) // It called again.
			var held *errs.Error
			if _, err := n.Acquire(ctx, fastRequest(t, "two")); !errors.As(err, &held) || held.Kind != errs.Aborted ||
				held.RetryAfter <= 0 || held.RetryAfter > r.TTL {
				t.Errorf("somebody else: %v", err)
			}
			n.acquire(t, as(t, "other"), fastRequest(t, "another tenant's"))
			n.release(t, ctx, n.acquire(t, ctx, request(t, "the correct one of that name")))
			longer, err := n.Renew(ctx, one.Name, one.ID, time.Hour, true)
			if err != nil || time.Until(longer.End) < 59*time.Minute {
				t.Errorf("%+v %v", longer, err)
			}
			if _, err := n.Renew(ctx, one.Name, one.ID, 0, false); err != nil {
				t.Errorf("without saying that it is fast: %v", err)
			}
			if _, err := n.Renew(ctx, one.Name, uuid.New(), 0, true); !errs.Is(err, errs.FailedPrecondition) {
				t.Errorf("another lease: %v", err)
			}
			if released, err := n.Release(ctx, one.Name, uuid.New(), true); released || err != nil {
				t.Errorf("another lease: released %t, error %v", released, err)
			}
			waits := make(chan result)
			go func() {
				r := fastRequest(t, "three")
				r.Wait = patience
				l, err := n.Acquire(ctx, r)
				waits <- result{l, r.Owner, err}
			}()
			n.release(t, ctx, one) // Without saying that it is fast.
			if three := <-waits; three.err != nil {
				t.Error(three.err)
			}
			if released, err := n.Release(ctx, one.Name, one.ID, true); released || err != nil {
				t.Errorf("twice: released %t, error %v", released, err)
			}
		})
	}
}

func TestFastEnds(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	n, ctx := newFastNode(t, pgtest.New(t), server.URL), as(t, "acme")
	r := fastRequest(t, "one")
	r.TTL = time.Second
	one := n.acquire(t, ctx, r)
	r = fastRequest(t, "two")
	r.Wait = patience
	n.acquire(t, ctx, r)
	if time.Now().Before(one.End.Add(-10 * time.Millisecond)) { // Redis expires keys by the millisecond.
		t.Error("the lease ended early")
	}
	if _, err := n.Renew(ctx, one.Name, one.ID, 0, true); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a lease that has ended: %v", err)
	}
}

// Whatever lies under the key of a lock does not keep anybody out for ever.
func TestFastOverRubbish(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	n, ctx := newFastNode(t, pgtest.New(t), server.URL), as(t, "acme")
	client, err := kv.Open(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	key := kv.Key("acme", "lock", "a")
	for what, put := range map[string]func() error{
		"a list":            func() error { return client.LPush(ctx, key, "x").Err() },
		"without an end":    func() error { return client.Set(ctx, key, "x", 0).Err() },
		"nothing":           func() error { return nil },
		"somebody's broken": func() error { return client.Set(ctx, key, "\x00\xff", time.Second).Err() },
	} {
		client.Del(ctx, key)
		if err := put(); err != nil {
			t.Fatal(err)
		}
		r := fastRequest(t, "one")
		r.Wait = 5 * time.Second
		if _, err := n.Acquire(ctx, r); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Without Redis fast locks are unavailable, at once after the first call, and correct ones go on.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	n, ctx := newFastNode(t, pgtest.New(t), server.URL), as(t, "acme")
	one := n.acquire(t, ctx, fastRequest(t, "one"))
	server.Kill()
	if _, err := n.Acquire(ctx, fastRequest(t, "two")); !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
	began := time.Now()
	for range 100 {
		if _, err := n.Acquire(ctx, fastRequest(t, "two")); !errs.Is(err, errs.Unavailable) {
			t.Errorf("%v", err)
		}
	}
	if took := time.Since(began); took > time.Second { // Redis is asked once a second.
		t.Errorf("100 calls took %v", took)
	}
	if _, err := n.Release(ctx, one.Name, one.ID, true); !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
	l := n.acquire(t, ctx, request(t, "one"))
	n.release(t, ctx, l)
	if released, err := n.Release(ctx, l.Name, l.ID, false); released || err != nil {
		t.Errorf("a correct lock, twice: released %t, error %v", released, err)
	}
	if _, err := n.Renew(ctx, l.Name, l.ID, 0, false); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a correct lease that has ended: %v", err)
	}
}

// A failover may lose a fast lock, but not the service of them.
func TestFastAfterFailover(t *testing.T) {
	t.Parallel()
	sentinels := kvtest.NewSentinels(t, nil)
	n, ctx := newFastNode(t, pgtest.New(t), sentinels.URL), as(t, "acme")
	n.acquire(t, ctx, fastRequest(t, "one"))
	sentinels.Primary.Kill()
	until(t, "there is a new primary", func() bool {
		r := fastRequest(t, "two")
		r.Name = name(t, "b")
		_, err := n.Acquire(ctx, r)
		if err != nil && !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// Scripts that a server has forgotten are sent again.
func TestFastScriptIsForgotten(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	n, ctx := newFastNode(t, pgtest.New(t), server.URL), as(t, "acme")
	client, err := kv.Open(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	for range 3 {
		if err := client.ScriptFlush(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		l := n.acquire(t, ctx, fastRequest(t, "one"))
		if _, err := n.Release(ctx, l.Name, l.ID, true); err != nil {
			t.Error(err)
		}
	}
}

// While Redis answers, one client has a fast lock at a time.
func TestFastContention(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	databaseURL := pgtest.New(t)
	nodes, ctx := []node{newFastNode(t, databaseURL, server.URL), newFastNode(t, databaseURL, server.URL)}, as(t, "acme")
	var running sync.WaitGroup
	var inside sync.Mutex
	for i := range 8 {
		running.Go(func() {
			for range 10 {
				r := fastRequest(t, fmt.Sprint(i))
				r.Wait = patience
				l, err := nodes[i%2].Acquire(ctx, r)
				for errs.Is(err, errs.Unavailable) { // A busy machine answers late.
					l, err = nodes[i%2].Acquire(ctx, r)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !inside.TryLock() {
					t.Error("two have it")
					return
				}
				time.Sleep(time.Millisecond) // What it does with it.
				inside.Unlock()
				_, err = nodes[i%2].Release(ctx, l.Name, l.ID, true)
				for errs.Is(err, errs.Unavailable) {
					_, err = nodes[i%2].Release(ctx, l.Name, l.ID, true)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
}
