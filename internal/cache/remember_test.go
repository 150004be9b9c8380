package cache_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"plinth/internal/auth"
	"plinth/internal/cache"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
)

func TestRemember(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, open func(*testing.T) redis.UniversalClient, _ func(time.Duration)) {
		for name, test := range map[string]func(*testing.T, func(*testing.T) redis.UniversalClient){
			"a stampede": stampede, "a long load": longLoad, "the first goes": firstGoes, "a loader that does not return": noReturn,
			"nothing": absence, "nothing, for as long as is said": absentFor, "a stale value": stale, "another shape": shapes, "too large": tooLarge, "ends are spread": spreads,
			"invalidated while it loads": invalidated, "what is not ours": foreignMemo, "a lag": lag,
		} {
			t.Run(name, func(t *testing.T) { test(t, open) })
		}
	})
}

// loader counts its calls, and returns the number of each.
type loader struct{ calls atomic.Int64 }

func (l *loader) load(context.Context) (int64, error) { return l.calls.Add(1), nil }

func remember(t *testing.T, ctx context.Context, s *cache.Service, load func(context.Context) (int64, error), want int64, options ...cache.Option) {
	t.Helper()
	if n, err := cache.Remember(ctx, s, "k", time.Hour, load, options...); err != nil || n != want {
		t.Errorf("%d, %v; want %d", n, err, want)
	}
}

// R01
func stampede(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, l := newTenant(t), loader{}
	var readers sync.WaitGroup
	for range 2 {
		s := newService(open(t))
		for range 500 {
			readers.Go(func() {
				remember(t, ctx, s, func(ctx context.Context) (int64, error) {
					time.Sleep(100 * time.Millisecond)
					return l.load(ctx)
				}, 1)
			})
		}
	}
	if readers.Wait(); l.calls.Load() != 1 {
		t.Errorf("%d loads", l.calls.Load())
	}
}

// R03
func longLoad(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, l := newTenant(t), loader{}
	var readers sync.WaitGroup
	for range 2 {
		s := newService(open(t))
		s.SetLease(time.Second)
		readers.Go(func() {
			remember(t, ctx, s, func(ctx context.Context) (int64, error) {
				time.Sleep(3 * time.Second)
				return l.load(ctx)
			}, 1)
		})
	}
	if readers.Wait(); l.calls.Load() != 1 {
		t.Errorf("%d loads", l.calls.Load())
	}
}

// R04
func firstGoes(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s, l, began, goOn := newTenant(t), newService(open(t)), loader{}, make(chan struct{}), make(chan struct{})
	load := func(ctx context.Context) (int64, error) {
		close(began)
		<-goOn
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return l.load(ctx)
	}
	first, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := cache.Remember(first, s, "k", time.Hour, load); !errors.Is(err, context.Canceled) {
			t.Errorf("the first: %v", err)
		}
	})
	<-began
	for range 50 {
		all.Go(func() { remember(t, ctx, s, load, 1) })
	}
	cancel()
	close(goOn)
	all.Wait()
}

// R06
func noReturn(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s, l := newTenant(t), newService(open(t)), loader{}
	for what, end := range map[string]func(){"panic": func() { panic("x") }, "Goexit": runtime.Goexit} {
		_, err := cache.Remember(ctx, s, "k", time.Hour, func(context.Context) (int64, error) { end(); return 0, nil })
		if !errs.Is(err, errs.Internal) {
			t.Errorf("%s: %v", what, err)
		}
	}
	remember(t, ctx, s, l.load, 1)
}

// R07
func absence(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s, l := newTenant(t), newService(open(t)), loader{}
	none := func(context.Context) (int64, error) {
		l.calls.Add(1)
		return 0, errs.New(errs.NotFound, "no such order")
	}
	for range 100 {
		_, err := cache.Remember(ctx, s, "k", time.Hour, none)
		if want(t, err, errs.NotFound); err.Error() != "no such order" {
			t.Errorf("%v", err)
		}
	}
	if l.calls.Load() != 1 {
		t.Errorf("%d loads", l.calls.Load())
	}
	if err := s.Invalidate(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	remember(t, ctx, s, l.load, 2)
}

// absentFor has an absence remembered for as long as the caller says.
func absentFor(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s, l := newTenant(t), newService(open(t)), loader{}
	none := func(context.Context) (int64, error) { l.calls.Add(1); return 0, errs.New(errs.NotFound, "nothing") }
	ask := func(want int64, key string, d time.Duration) {
		t.Helper()
		if _, err := cache.Remember(ctx, s, key, time.Hour, none, cache.AbsentFor(d)); !errs.Is(err, errs.NotFound) || l.calls.Load() != want {
			t.Errorf("%v after %d loads, want %d", err, l.calls.Load(), want)
		}
	}
	ask(1, "not at all", 0)
	ask(2, "not at all", 0)
	ask(3, "long", time.Hour)
	ask(3, "long", time.Hour)
	ask(4, "short", 50*time.Millisecond)
	time.Sleep(51 * time.Millisecond)
	ask(5, "short", 50*time.Millisecond)
	ttl := open(t).PTTL(ctx, kv.Key(auth.TenantOf(ctx), "cache-memo", "long")).Val()
	if ttl > time.Hour || ttl < 59*time.Minute {
		t.Errorf("an absence is kept for %v", ttl)
	}
}

// R09
func stale(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s, failed, calls := newTenant(t), newService(open(t)), errors.New("failed"), loader{}
	const ttl = 20 * time.Millisecond
	if n, err := cache.Remember(ctx, s, "k", ttl, calls.load, cache.StaleFor(time.Hour)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	time.Sleep(ttl)
	start, age, n := time.Now(), time.Duration(0), 0
	for ; time.Since(start) < 500*time.Millisecond; n++ {
		v, err := cache.Remember(ctx, s, "k", ttl, func(context.Context) (int64, error) { calls.calls.Add(1); return 0, failed },
			cache.StaleFor(time.Hour), cache.Age(&age))
		if v != 1 || err != nil || age < ttl {
			t.Fatalf("%d, %v, age %v", v, err, age)
		}
	}
	if tried := calls.calls.Load() - 1; tried < 1 || tried > 1+int64(time.Since(start)/time.Second)+1 {
		t.Errorf("%d loads in %d calls", tried, n)
	}
	if err := s.Invalidate(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Remember(ctx, s, "k", ttl, func(context.Context) (int64, error) { return 0, failed }, cache.StaleFor(time.Hour)); !errors.Is(err, failed) {
		t.Errorf("after an invalidation: %v", err)
	}
}

// R22
func shapes(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s := newTenant(t), newService(open(t))
	old := func() (calls int) {
		type order struct{ ID int }
		o, err := cache.Remember(ctx, s, "k", time.Hour, func(context.Context) (order, error) { calls++; return order{1}, nil })
		if err != nil || o.ID != 1 {
			t.Errorf("%v %v", o, err)
		}
		return calls
	}
	recent := func() (calls int) {
		type order struct {
			ID   int
			Note string
		}
		o, err := cache.Remember(ctx, s, "k", time.Hour, func(context.Context) (order, error) { calls++; return order{1, "new"}, nil })
		if err != nil || o.Note != "new" {
			t.Errorf("%v %v", o, err)
		}
		return calls
	}
	if old() != 1 || old() != 0 || recent() != 1 || recent() != 0 || old() != 1 {
		t.Error("one reads what the other wrote")
	}
	if names := client(t, open).Keys(ctx, kv.Key(auth.TenantOf(ctx), "cache-memo*")).Val(); len(names) > 1 {
		t.Errorf("%v", names)
	}
}

func client(t *testing.T, open func(*testing.T) redis.UniversalClient) redis.UniversalClient {
	return open(t)
}

// R23
func tooLarge(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s, calls := newTenant(t), newService(open(t), cache.Limits{MaxValueSize: 10}), 0
	for range 2 {
		v, err := cache.Remember(ctx, s, "k", time.Hour, func(context.Context) (string, error) { calls++; return "more than ten bytes", nil })
		if err != nil || v != "more than ten bytes" {
			t.Errorf("%q %v", v, err)
		}
	}
	if calls != 2 {
		t.Errorf("%d loads", calls)
	}
}

// R20
func spreads(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s, c := newTenant(t), newService(open(t)), open(t)
	shortest, longest := time.Hour, time.Duration(0)
	for i := range 200 {
		k := strconv.Itoa(i)
		if _, err := cache.Remember(ctx, s, k, time.Hour, func(context.Context) (int, error) { return 1, nil }, cache.StaleFor(0)); err != nil {
			t.Fatal(err)
		}
		ttl := c.PTTL(ctx, kv.Key(auth.TenantOf(ctx), "cache-memo", k)).Val()
		shortest, longest = min(shortest, ttl), max(longest, ttl)
	}
	if longest > time.Hour || longest-shortest < 8*time.Hour/100 {
		t.Errorf("they end after %v to %v", shortest, longest)
	}
}

// invalidated has a value invalidated while a load of what was before runs, in the same process and in another.
func invalidated(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	for range 2 {
		ctx, s, other := newTenant(t), newService(open(t)), newService(open(t))
		began, goOn := make(chan struct{}), make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			remember(t, ctx, s, func(context.Context) (int64, error) { close(began); <-goOn; return 1, nil }, 1)
		})
		<-began
		if err := other.Invalidate(ctx, "k"); err != nil {
			t.Fatal(err)
		}
		all.Go(func() { // It comes after the invalidation, so the load that runs is not for it.
			remember(t, ctx, s, func(context.Context) (int64, error) { return 2, nil }, 2)
		})
		remember(t, ctx, other, func(context.Context) (int64, error) { return 2, nil }, 2)
		close(goOn)
		all.Wait()
		remember(t, ctx, s, func(context.Context) (int64, error) { return 3, nil }, 2)
	}
}

func foreignMemo(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	for _, part := range []string{"cache-memo", "cache-lease", "cache-marks"} {
		for _, put := range []func(ctx context.Context, c redis.UniversalClient, key string) error{
			func(ctx context.Context, c redis.UniversalClient, key string) error {
				return c.LPush(ctx, key, "x").Err()
			},
			func(ctx context.Context, c redis.UniversalClient, key string) error {
				return c.Set(ctx, key, "garbage", 0).Err()
			},
			func(ctx context.Context, c redis.UniversalClient, key string) error {
				return c.Set(ctx, key, "\xc1\x02garbage", 0).Err()
			},
		} {
			ctx, s, c := newTenant(t), newService(open(t)), open(t)
			l := loader{}
			if err := put(ctx, c, kv.Key(auth.TenantOf(ctx), part, "k")); err != nil {
				t.Fatal(err)
			}
			remember(t, ctx, s, l.load, 1)
			remember(t, ctx, s, l.load, 1)
			if err := put(ctx, c, kv.Key(auth.TenantOf(ctx), part, "other")); err != nil {
				t.Fatal(err)
			}
			if err := s.Invalidate(ctx, "k", "other"); err != nil {
				t.Errorf("%s: %v", part, err)
			}
			remember(t, ctx, s, l.load, 2)
		}
	}
}

func lag(t *testing.T, open func(*testing.T) redis.UniversalClient) {
	ctx, s, l := newTenant(t), newService(open(t)), loader{}
	if err := s.Invalidate(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	remember(t, ctx, s, l.load, 1, cache.Lag(time.Minute))
	remember(t, ctx, s, l.load, 2, cache.Lag(time.Minute))
	remember(t, ctx, s, l.load, 3)
	remember(t, ctx, s, l.load, 3, cache.Lag(time.Minute))
}

// TestRememberAway has Redis gone: loads go on, one at a time for a key. R18
func TestRememberAway(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	s, ctx, l := newService(opener(server.URL)(t)), newTenant(t), loader{}
	remember(t, ctx, s, l.load, 1)
	s.SetReplyLimit(cache.MemoReply)
	server.Kill()
	var running, most atomic.Int64
	var readers sync.WaitGroup
	for range 200 {
		readers.Go(func() {
			for range 3 {
				_, err := cache.Remember(ctx, s, "k", time.Hour, func(ctx context.Context) (int64, error) {
					if n := running.Add(1); n > most.Load() {
						most.Store(n)
					}
					defer running.Add(-1)
					time.Sleep(20 * time.Millisecond)
					return l.load(ctx)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	if readers.Wait(); most.Load() != 1 || l.calls.Load() > 60 { // of 600 calls
		t.Errorf("%d loads, %d at a time", l.calls.Load(), most.Load())
	}
	want(t, s.Invalidate(ctx, "k"), errs.Unavailable)
}
