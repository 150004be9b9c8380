package ratelimit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/kv"
	"plinth/internal/ratelimit"
)

// clock is the clock of a test's limiters and of their Redis, which is one in memory. It advances only when the test
// advances it.
type clock struct {
	*miniredis.Miniredis
	mu   sync.Mutex
	time time.Time
}

func newClock(t *testing.T) *clock {
	t.Helper()
	c := &clock{Miniredis: miniredis.RunT(t), time: time.Unix(1_800_000_000, 123_456_000)}
	c.pass(0)
	return c
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	c.time = c.time.Add(d)
	c.SetTime(c.time)
	c.mu.Unlock()
	c.FastForward(d)
}

// limiter returns a limiter of another process on the Redis of the clock.
func (c *clock) limiter(t *testing.T) *limiter {
	return newLimiter(t, "redis://"+c.Addr(), zap.NewNop(), c.now)
}

// alone returns a limiter that has lost its Redis.
func (c *clock) alone(t *testing.T) *limiter {
	l := c.limiter(t)
	c.Close()
	l.Take(t.Context(), 1, limitOf(t, 1, time.Nanosecond))
	return l
}

// limiter is a Limiter that counts how often it asks Redis, and deletes its keys at the end of the test.
type limiter struct {
	*ratelimit.Limiter
	client redis.UniversalClient
	asked  atomic.Int64
	keys   sync.Map // that it has asked for
	before func()   // called before each query
}

func newLimiter(t *testing.T, url string, log *zap.Logger, now func() time.Time) *limiter {
	t.Helper()
	client, err := kv.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	l := &limiter{Limiter: ratelimit.New(client, log, now), client: client}
	t.Cleanup(func() {
		l.keys.Range(func(key, _ any) bool { return client.Del(context.Background(), key.(string)).Err() == nil })
		client.Close()
	})
	l.SetReplyLimit(time.Minute)
	client.AddHook(l)
	return l
}

func (l *limiter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *limiter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		l.count(cmds...)
		return next(ctx, cmds)
	}
}

func (l *limiter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		l.count(cmd)
		return next(ctx, cmd)
	}
}

// count counts commands that are sent together as one query.
func (l *limiter) count(cmds ...redis.Cmder) {
	if cmds[0].Name() != "evalsha" {
		return
	}
	l.asked.Add(1)
	for _, cmd := range cmds {
		l.keys.Store(cmd.Args()[3], nil) // Storing one is enough: keys that tests share are also asked for alone.
	}
	if l.before != nil {
		l.before()
	}
}

// until takes tokens one by one until one is refused, and returns how many were allowed.
func (l *limiter) until(t *testing.T, limit ratelimit.Limit) (n int64) {
	t.Helper()
	for l.Take(t.Context(), 1, limit).Allowed {
		if n++; n > 2*limit.Rate.Count {
			t.Fatalf("no end after %d of %+v", n, limit)
		}
	}
	return n
}

// onBoth runs a test on the real Redis and on the one in memory, which has the real time too.
func onBoth(t *testing.T, test func(t *testing.T, url string)) {
	t.Parallel()
	t.Run("miniredis", func(t *testing.T) { t.Parallel(); test(t, "redis://"+miniredis.RunT(t).Addr()) })
	t.Run("redis", func(t *testing.T) { t.Parallel(); test(t, realRedis(t)) })
}

// realRedis returns the URL of database 9 of the Redis of REDIS_URL or, if CI is true, of 127.0.0.1.
func realRedis(t testing.TB) string {
	t.Helper()
	named := os.Getenv("REDIS_URL")
	if named == "" && os.Getenv("CI") != "true" {
		t.Skip("REDIS_URL is not set")
	}
	options := &redis.Options{Addr: "127.0.0.1:6379"}
	if named != "" {
		var err error
		if options, err = redis.ParseURL(named); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("redis://%s:%s@%s/9", options.Username, options.Password, options.Addr)
}

// limitOf returns a limit of the test's own.
func limitOf(t testing.TB, count int64, per time.Duration) ratelimit.Limit {
	return ratelimit.Limit{Tenant: "t", Kind: fmt.Sprintf("%x", rand.Uint64()), Name: t.Name(), Rate: auth.Rate{Count: count, Per: per}}
}

// keyOf returns the key of a limit's bucket in Redis.
func keyOf(limit ratelimit.Limit) string { return kv.Key(limit.Tenant, "rate", limit.Kind, limit.Name) }

// want takes n tokens, and compares the decision. The expected kind is that of the limit with the expected rate.
func (l *limiter) want(t *testing.T, want ratelimit.Decision, n int64, limits ...ratelimit.Limit) {
	t.Helper()
	for _, limit := range limits {
		if limit.Rate == want.Limit && limit.Rate.IsLimit() {
			want.Kind = limit.Kind
		}
	}
	if got := l.Take(t.Context(), n, limits...); got != want {
		t.Errorf("Take of %d of %+v\ngot  %+v\nwant %+v", n, limits, got, want)
	}
}

func TestDecision(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.limiter(t)
	limit := limitOf(t, 10, time.Second)
	rate, ms := limit.Rate, time.Millisecond

	l.want(t, ratelimit.Decision{Allowed: true, Limit: rate, Remaining: 9, Reset: 100 * ms}, 1, limit)
	l.want(t, ratelimit.Decision{Allowed: true, Limit: rate, Remaining: 2, Reset: 800 * ms}, 7, limit)
	l.want(t, ratelimit.Decision{Limit: rate, Remaining: 2, Reset: 800 * ms, RetryAfter: 300 * ms}, 5, limit)
	c.pass(300*ms - time.Microsecond)
	if d := l.Take(t.Context(), 5, limit); d.Allowed || d.RetryAfter != time.Microsecond {
		t.Errorf("a microsecond early: %+v", d)
	}
	c.pass(time.Microsecond)
	l.want(t, ratelimit.Decision{Allowed: true, Limit: rate, Remaining: 0, Reset: time.Second}, 5, limit)
	l.want(t, ratelimit.Decision{Limit: rate, Reset: time.Second, RetryAfter: 100 * ms}, 1, limit)
	c.pass(time.Minute)
	l.want(t, ratelimit.Decision{Allowed: true, Limit: rate, Remaining: 0, Reset: time.Second}, 10, limit)

	// Redis need not be asked about this one.
	large := limitOf(t, 1_000, time.Second)
	l.want(t, ratelimit.Decision{Allowed: true, Limit: large.Rate, Remaining: 997, Reset: 3 * ms}, 3, large)
	l.want(t, ratelimit.Decision{Allowed: true, Limit: large.Rate, Remaining: 995, Reset: 5 * ms}, 2, large)

	// More tokens than the rate has are refused for good; less than 1 counts as 1.
	c.pass(time.Minute)
	l.want(t, ratelimit.Decision{Limit: rate, Remaining: 10}, 11, limit)
	l.want(t, ratelimit.Decision{Allowed: true, Limit: rate, Remaining: 9, Reset: 100 * ms}, 0, limit)
	l.want(t, ratelimit.Decision{Allowed: true, Limit: rate, Remaining: 8, Reset: 200 * ms}, -3, limit)
}

func TestTightestLimitDecides(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.limiter(t)
	a, b, none := limitOf(t, 40, time.Hour), limitOf(t, 10, time.Second), limitOf(t, 0, time.Second)
	l.want(t, ratelimit.Decision{Allowed: true, Limit: b.Rate, Remaining: 7, Reset: 300 * time.Millisecond}, 3, a, none, b)
	l.want(t, ratelimit.Decision{Limit: b.Rate, Remaining: 7, Reset: 300 * time.Millisecond, RetryAfter: 100 * time.Millisecond}, 8, b, a)
	l.want(t, ratelimit.Decision{Limit: b.Rate, Remaining: 7, Reset: 300 * time.Millisecond}, 11, a, b)
	// If several refuse, the one that refuses longest decides.
	c.pass(time.Second)
	for range 4 {
		l.Take(t.Context(), 9, a)
	}
	l.Take(t.Context(), 5, b)
	if d := l.Take(t.Context(), 8, b, a); d.Allowed || d.Limit != a.Rate || d.RetryAfter < time.Minute {
		t.Errorf("%+v", d)
	}
}

func TestWithoutLimits(t *testing.T) {
	t.Parallel()
	l := newClock(t).limiter(t)
	l.want(t, ratelimit.Decision{Allowed: true}, 1)
	l.want(t, ratelimit.Decision{Allowed: true}, 1e9, ratelimit.Limit{Name: "a"}, ratelimit.Limit{Name: "b", Rate: auth.Rate{Per: time.Second}})
	if l.asked.Load() != 0 || l.Buckets() != 0 {
		t.Errorf("%d questions, %d buckets", l.asked.Load(), l.Buckets())
	}
}

// TestBurst has one process use up a limit, and then the tokens that come back.
func TestBurst(t *testing.T) {
	t.Parallel()
	for _, count := range []int64{1, 5, 10, 99, 100, 1_000, 3_000} {
		if count > 1_000 && os.Getenv("CI") != "true" {
			continue // It needs seconds of CPU time.
		}
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			t.Parallel()
			c := newClock(t)
			l := c.limiter(t)
			limit := limitOf(t, count, time.Second)
			for round := range 3 {
				if n := l.until(t, limit); n != count {
					t.Errorf("round %d: %d at once", round, n)
				}
				c.pass(500 * time.Millisecond)
				if n := l.until(t, limit); n != count/2 {
					t.Errorf("round %d: %d after half the time", round, n)
				}
				c.pass(time.Minute)
			}
		})
	}
}

// TestBurstOfMany takes different numbers of tokens at once; Redis must be asked about some.
func TestBurstOfMany(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.limiter(t)
	limit := limitOf(t, 1_000, time.Second)
	sum := int64(0)
	for range 1_000 {
		for _, n := range []int64{1, 17, 1, 1, 5} {
			if l.Take(t.Context(), n, limit).Allowed {
				sum += n
			}
		}
	}
	if sum != 1_000 {
		t.Errorf("%d at once", sum)
	}
}

// TestAlone tests a process whose Redis is away.
func TestAlone(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.alone(t)
	limit := limitOf(t, 1_000, time.Second)
	for round := range 2 {
		for i := range limit.Rate.Count {
			if d := l.Take(t.Context(), 1, limit); !d.Allowed || d.Remaining != 999-i {
				t.Fatalf("round %d: %d %+v", round, i, d)
			}
		}
		l.want(t, ratelimit.Decision{Limit: limit.Rate, RetryAfter: time.Millisecond, Reset: time.Second}, 1, limit)
		c.pass(time.Minute)
	}
}

// TestSlot removes a bucket that a slot holds.
func TestSlot(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.alone(t)
	limit := limitOf(t, 5, time.Minute)
	slotted := limit
	slotted.Slot = new(atomic.Value)
	l.Take(t.Context(), 1, slotted)
	c.pass(2 * time.Minute)
	l.Take(t.Context(), 1, limit) // This call sweeps.
	if !l.Take(t.Context(), 4, slotted).Allowed || l.Take(t.Context(), 1, limit).Allowed || l.Take(t.Context(), 1, slotted).Allowed {
		t.Error("the slot holds another bucket")
	}
}

// TestConcurrent holds back the queries of a process until all of them are asked.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	const callers = 10
	c := newClock(t)
	l := c.limiter(t)
	l.SetReplyLimit(10 * time.Second)
	var all sync.WaitGroup
	all.Add(callers)
	l.before = func() { all.Done(); all.Wait() }
	limit := limitOf(t, callers, time.Hour)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if d := l.Take(t.Context(), 1, limit); !d.Allowed {
				t.Errorf("%+v", d)
			}
		})
	}
	wg.Wait()
	if n := l.asked.Load(); n != callers {
		t.Errorf("%d questions at the same time", n)
	}
}

// TestConcurrentUnreported has concurrent callers take tokens that Redis need not be asked about.
func TestConcurrentUnreported(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.limiter(t)
	limit, second := limitOf(t, 10_000_000, time.Second), limitOf(t, 20_000_000, time.Second)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 1_000 {
				if d := l.Take(t.Context(), 1, limit, second); !d.Allowed {
					t.Errorf("%+v", d)
				}
			}
		})
	}
	wg.Wait()
	l.Report()
	asked := l.asked.Load()
	if d := l.Take(t.Context(), 5_000_000, limit, second); d.Remaining != 10_000_000-5_020_000 || l.asked.Load() != asked+1 {
		t.Errorf("%+v", d)
	}
}

// TestMemory has clients invent keys.
func TestMemory(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.alone(t)
	busy := limitOf(t, 5, time.Hour)
	l.Take(t.Context(), 5, busy)
	for i := range 150_000 {
		l.Take(t.Context(), 1, ratelimit.Limit{Name: fmt.Sprint(i), Rate: auth.Rate{Count: 10, Per: time.Minute}})
	}
	if n := l.Buckets(); n > 100_000 || n < 90_000 {
		t.Errorf("%d buckets", n)
	}
	if l.Take(t.Context(), 1, busy).Allowed {
		t.Error("the busiest is forgotten")
	}
	c.pass(time.Minute)
	for i := range 2_000 {
		l.Take(t.Context(), 1, ratelimit.Limit{Name: fmt.Sprint("late", i), Rate: busy.Rate})
	}
	if n := l.Buckets(); n != 2_001 {
		t.Errorf("%d buckets when the others are idle", n)
	}
}
