package cache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"plinth/internal/auth"
	"plinth/internal/cache"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// overwrite puts what other has of a key in the place of it, as a load in another process does.
func overwrite(t *testing.T, ctx context.Context, other *cache.Service, key string, n int64) {
	t.Helper()
	if err := other.Invalidate(ctx, key); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Remember(ctx, other, key, time.Hour, func(context.Context) (int64, error) { return n, nil }); err != nil {
		t.Fatal(err)
	}
}

// What is near is returned without Redis until it has its age, to those who ask for it, and no longer than their maxAge.
func TestNear(t *testing.T) {
	t.Parallel()
	open := opener("redis://" + miniredis.RunT(t).Addr())
	ctx, s, other, l := newTenant(t), newService(open(t)), newService(open(t)), loader{}
	remember(t, ctx, s, l.load, 1, cache.Near(time.Hour))
	overwrite(t, ctx, other, "k", 7)
	age := time.Duration(-1)
	remember(t, ctx, s, l.load, 1, cache.Near(time.Hour), cache.Age(&age))
	if age < 0 || age > patience {
		t.Errorf("age %v", age)
	}
	if v, err := cache.Remember(ctx, s, "k", time.Hour, func(context.Context) (string, error) { return "text", nil }, cache.Near(time.Hour)); v != "text" || err != nil {
		t.Errorf("of another type: %q %v", v, err)
	}
	overwrite(t, ctx, other, "k", 7)
	remember(t, ctx, s, l.load, 7)
	remember(t, ctx, s, l.load, 7, cache.Near(time.Nanosecond))
	another := auth.AsService(ctx, auth.TenantOf(ctx)+"-other")
	remember(t, another, s, l.load, 2, cache.Near(time.Hour))
	remember(t, ctx, s, l.load, 7, cache.Near(time.Hour))
}

// The maxAge is that of the call, not of the one that kept the value, and reading a value does not make it younger.
func TestNearAgeIsOfTheCall(t *testing.T) {
	t.Parallel()
	open := opener("redis://" + miniredis.RunT(t).Addr())
	ctx, s, other, l := newTenant(t), newService(open(t)), newService(open(t)), loader{}
	remember(t, ctx, s, l.load, 1, cache.Near(time.Hour))
	overwrite(t, ctx, other, "k", 7)
	const maxAge = 50 * time.Millisecond
	for kept := time.Now(); time.Since(kept) < maxAge+time.Millisecond; {
		remember(t, ctx, s, l.load, 1, cache.Near(time.Hour))
	}
	remember(t, ctx, s, l.load, 7, cache.Near(maxAge))
}

// No call returns what was current before its maxAge, however often it is asked for meanwhile.
func TestNearIsNeverOlder(t *testing.T) {
	t.Parallel()
	open := opener("redis://" + miniredis.RunT(t).Addr())
	ctx, s, other := newTenant(t), newService(open(t)), newService(open(t))
	const maxAge = 30 * time.Millisecond
	var hits int
	for i := int64(0); i < 10; i++ {
		overwrite(t, ctx, other, "k", i)
		for changed := time.Now(); ; hits++ {
			began := time.Now()
			v, err := cache.Remember(ctx, s, "k", time.Hour, func(context.Context) (int64, error) { return i, nil }, cache.Near(maxAge))
			if err != nil || v < i && began.Sub(changed) > maxAge {
				t.Fatalf("%d %v, %v after it became %d", v, err, began.Sub(changed), i)
			}
			if v == i {
				break
			}
		}
	}
	t.Logf("%d calls returned what was before", hits)
	// Nor is it near for longer than it is fresh.
	overwrite(t, ctx, other, "k", 11)
	if err := s.Invalidate(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	n := int64(20)
	load := func(context.Context) (int64, error) { n++; return n, nil }
	for range 2 {
		if v, err := cache.Remember(ctx, s, "k", 20*time.Millisecond, load, cache.Near(time.Hour), cache.StaleFor(0)); v != n || err != nil {
			t.Errorf("%d %v, want %d", v, err, n)
		}
		time.Sleep(21 * time.Millisecond)
	}
	if n != 22 {
		t.Errorf("%d loads", n-20)
	}
}

// An invalidation in the same process removes what is near, and what is being read or loaded meanwhile is not kept. R25
func TestNearIsInvalidated(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	open := opener("redis://" + server.Addr())
	ctx, s, l := newTenant(t), newService(open(t)), loader{}
	near := cache.Near(time.Hour)
	remember(t, ctx, s, l.load, 1, near)
	if err := s.Invalidate(ctx, "other", "k"); err != nil {
		t.Fatal(err)
	}
	remember(t, ctx, s, l.load, 2, near)

	began, goOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_, _ = cache.Remember(ctx, s, "loads", time.Hour, func(context.Context) (int64, error) { close(began); <-goOn; return 1, nil }, near)
	}()
	<-began
	if err := s.Invalidate(ctx, "loads"); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	<-done
	if v, err := cache.Remember(ctx, s, "loads", time.Hour, func(context.Context) (int64, error) { return 2, nil }, near); v != 2 || err != nil {
		t.Errorf("after a load that began before the invalidation: %d %v", v, err)
	}

	server.Close() // Without Redis it is removed all the same.
	want(t, s.Invalidate(ctx, "k"), errs.Unavailable)
	s.SetReplyLimit(cache.MemoReply)
	remember(t, ctx, s, l.load, 3, near)
	remember(t, ctx, s, l.load, 4, near)
}

// While readers keep a value near, one process changes it: none of its own readers gets the old one after that.
func TestNearRace(t *testing.T) {
	t.Parallel()
	s, ctx := newService(opener("redis://"+miniredis.RunT(t).Addr())(t)), newTenant(t)
	var truth atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least := truth.Load()
				v, err := cache.Remember(ctx, s, "k", time.Hour, func(context.Context) (int64, error) { return truth.Load(), nil }, cache.Near(time.Hour))
				if err != nil || v < least-1 { // It is true before it is invalidated, by one.
					t.Errorf("%d %v, want %d", v, err, least)
					return
				}
			}
		})
	}
	for range 300 {
		truth.Add(1)
		if err := s.Invalidate(ctx, "k"); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	all.Wait()
}

// A transaction removes what is near in its process before its commit and after it.
func TestNearAndInvalidateTx(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t), kvtest.New(t, nil).URL), auth.AsService(t.Context(), auth.DefaultTenant)
	var truth atomic.Int64
	read := func() int64 {
		v, err := cache.Remember(ctx, n.Service, "k", time.Hour, func(context.Context) (int64, error) { return truth.Load(), nil }, cache.Near(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for i := range int64(3) {
		if v := read(); v != i {
			t.Errorf("it reads %d, want %d", v, i)
		}
		if err := n.db.InTx(ctx, func(tx *pg.Tx) error {
			if err := n.InvalidateTx(ctx, tx, "k"); err != nil {
				return err
			}
			read()
			tx.BeforeCommit(func() { read() }) // After the mark: nothing of it is kept.
			tx.AfterCommit(func() {
				if v := read(); v != i+1 {
					t.Errorf("after the commit it reads %d, want %d", v, i+1)
				}
			})
			tx.BeforeCommit(func() { truth.Add(1) })
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// The bytes that a process keeps are those of values, keys and tenants, and some for each entry, which weighs at least its share.
func TestNearIsBounded(t *testing.T) {
	t.Parallel()
	s := newService(opener("redis://" + miniredis.RunT(t).Addr())(t))
	for i, test := range []struct {
		name               string
		bytes, entries     uint64
		tenant, key, value int // their lengths
		most               int // of 200
	}{
		{"by number", 100_000, 50, 20, 5, 1, 50},
		{"by large values", 100_000, 50, 20, 5, 10_000, 10},
		{"by what each entry takes", 20_000, 20_000, 20, 5, 1, 70},
		{"by long keys", 50_000, 50_000, 20, 500, 1, 65},
		{"by long tenants", 50_000, 50_000, 500, 5, 1, 65},
	} {
		s.SetNear(test.bytes, test.entries)
		ctx := auth.AsService(t.Context(), strings.Repeat(string(rune('a'+i)), test.tenant))
		for n := range 200 {
			key := fmt.Sprintf("%0*d", test.key, n)
			load := func(context.Context) (string, error) { return strings.Repeat("x", test.value), nil }
			if _, err := cache.Remember(ctx, s, key, time.Hour, load, cache.Near(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.NearEntries(); n < test.most/2 || n > test.most {
			t.Errorf("%s: %d entries, want %d", test.name, n, test.most)
		}
	}
}

// A process keeps 64 MiB and 100,000 entries of all tenants near.
func TestNearBounds(t *testing.T) {
	t.Parallel()
	client := opener("redis://" + miniredis.RunT(t).Addr())(t)
	const entries = 100
	for weight, most := range map[uint32]uint64{1: 100_000, 1 << 17: 512} {
		s := newService(client)
		s.FillNear(entries, weight)
		used, room := s.NearSize()
		if n := room * entries / max(used, 1); room != 64<<20 || n < most*99/100 || n > most {
			t.Errorf("there is room for %d entries of %d bytes, want %d", n, weight, most)
		}
	}
}

func TestNearAbsence(t *testing.T) {
	t.Parallel()
	open := opener("redis://" + miniredis.RunT(t).Addr())
	ctx, s, c, calls := newTenant(t), newService(open(t)), open(t), 0
	for range 3 {
		_, err := cache.Remember(ctx, s, "k", time.Hour, func(context.Context) (int64, error) {
			calls++
			return 0, errs.New(errs.NotFound, "no such order")
		}, cache.Near(time.Hour))
		if want(t, err, errs.NotFound); err.Error() != "no such order" {
			t.Errorf("%v", err)
		}
		c.Del(ctx, kv.Key(auth.TenantOf(ctx), "cache-memo", "k"))
	}
	if calls != 1 {
		t.Errorf("%d loads", calls)
	}
	failed := errors.New("failed")
	for range 2 {
		if _, err := cache.Remember(ctx, s, "fails", time.Hour, func(context.Context) (int64, error) { calls++; return 0, failed }, cache.Near(time.Hour)); !errors.Is(err, failed) {
			t.Errorf("%v", err)
		}
	}
	if calls != 3 {
		t.Errorf("%d loads", calls)
	}
}

func BenchmarkNear(b *testing.B) {
	client, err := kv.Open("redis://" + miniredis.RunT(b).Addr())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	s, ctx := newService(client), newTenant(b)
	load := func(context.Context) (string, error) { return "value", nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cache.Remember(ctx, s, "key", time.Hour, load, cache.Near(time.Hour)); err != nil {
			b.Fatal(err)
		}
	}
}
