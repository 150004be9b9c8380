package ratelimit_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/auth"
	"plinth/internal/kv"
	"plinth/internal/ratelimit"
)

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// lines waits until the log has lines of these levels, and no others.
func lines(t *testing.T, logs *observer.ObservedLogs, want ...zapcore.Level) {
	t.Helper()
	eventually(t, "lines in the log", func() bool { return logs.Len() >= len(want) })
	for i, line := range logs.All() {
		if i >= len(want) || line.Level != want[i] {
			t.Errorf("line %d: %v %s %v", i, line.Level, line.Message, line.ContextMap())
		}
	}
}

func TestRedisAwayAndBack(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	c := newClock(t)
	l := newLimiter(t, "redis://"+c.Addr(), zap.New(core), c.now)
	limit, wide, narrow := limitOf(t, 10, time.Hour), limitOf(t, 40, time.Hour), limitOf(t, 2, time.Hour)
	hot := limitOf(t, 1_000, time.Second)
	l.SetReplyLimit(2 * time.Second)
	l.Take(t.Context(), 6, limit)
	c.Close()
	if n := l.until(t, limit); n != 4 {
		t.Errorf("%d allowed of the 4 that Redis had left", n)
	}
	if n := l.until(t, hot); n != 1_000 {
		t.Errorf("%d of 1,000 allowed", n)
	}
	l.Take(t.Context(), 2, narrow)
	for range 50 {
		if d := l.Take(t.Context(), 1, wide, narrow); d.Allowed || d.Limit != narrow.Rate {
			t.Fatalf("%+v", d)
		}
	}
	if n := l.until(t, wide); n != 40 {
		t.Errorf("%d of 40 were left by calls that another limit refused", n)
	}
	tries := l.asked.Load()
	c.pass(6 * time.Minute)
	if n := l.until(t, limit); n != 1 {
		t.Errorf("%d of the 1 that came back", n)
	}
	lines(t, logs, zap.WarnLevel)

	// It is tried again once a second, however many calls there are.
	eventually(t, "a try", func() bool { return l.asked.Load() > tries })
	c.pass(time.Second)
	for range 1_000 {
		l.Take(t.Context(), 1, limit)
	}
	eventually(t, "another try", func() bool { return l.asked.Load() > tries+1 })
	if n := l.asked.Load() - tries; n != 2 {
		t.Errorf("%d tries", n)
	}

	if err := c.Restart(); err != nil {
		t.Fatal(err)
	}
	// The try that the passing time brought may have failed or not, so there are two.
	c.pass(2 * time.Second)
	l.Take(t.Context(), 1, limit)
	lines(t, logs, zap.WarnLevel, zap.InfoLevel)
	asked := l.asked.Load()
	if d := l.Take(t.Context(), 1, limit); !d.Allowed || l.asked.Load() != asked+1 {
		t.Errorf("%+v is not from Redis", d)
	}
}

// TestRedisForgets lets Redis come back empty. What a process remembers still applies.
func TestRedisForgets(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	c := newClock(t)
	l := newLimiter(t, "redis://"+c.Addr(), zap.New(core), c.now)
	limit, large := limitOf(t, 10, 1_000*time.Hour), limitOf(t, 1_000, 1_000*time.Hour)
	l.Take(t.Context(), 9, limit)
	l.Take(t.Context(), 990, large)
	c.Close()
	l.Take(t.Context(), 1, limit)
	c.FlushAll()
	if err := c.Restart(); err != nil {
		t.Fatal(err)
	}
	c.pass(2 * time.Second)
	l.Take(t.Context(), 1, large)
	lines(t, logs, zap.WarnLevel, zap.InfoLevel)
	if d := l.Take(t.Context(), 2, limit); d.Allowed || d.Remaining != 1 {
		t.Errorf("%+v", d)
	}
	if d := l.Take(t.Context(), 20, large); d.Allowed {
		t.Errorf("%+v", d)
	}
}

// TestSlowRedis has a server that takes connections and never answers.
func TestSlowRedis(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	core, logs := observer.New(zap.InfoLevel)
	c := newClock(t)
	l := newLimiter(t, "redis://"+listener.Addr().String(), zap.New(core), c.now)
	l.SetReplyLimit(50 * time.Millisecond)
	limit := limitOf(t, 40, time.Hour)

	// Several callers find out at the same time.
	const callers = 10
	var all sync.WaitGroup
	all.Add(callers)
	l.before = func() {
		if l.asked.Load() <= callers {
			all.Done()
			all.Wait()
		}
	}
	start := time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() { l.Take(t.Context(), 1, limitOf(t, 1, time.Hour)) })
	}
	wg.Wait()
	for range 40 {
		if d := l.Take(t.Context(), 1, limit); !d.Allowed {
			t.Fatalf("%+v", d)
		}
		c.pass(2 * time.Second) // so that each tries again
	}
	if d := time.Since(start); d < 50*time.Millisecond || d > time.Second {
		t.Errorf("40 calls took %v", d)
	}
	if l.Take(t.Context(), 1, limit).Allowed {
		t.Error("more than the rate is allowed")
	}
	lines(t, logs, zap.WarnLevel)
}

// TestCallerGoesAway cancels calls before Redis answers.
func TestCallerGoesAway(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		core, logs := observer.New(zap.InfoLevel)
		l := newLimiter(t, url, zap.New(core), time.Now)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		limit := limitOf(t, 5, 1_000*time.Hour)
		for i := range int64(5) {
			if d := l.Take(gone, 1, limit); !d.Allowed || d.Remaining != 4-i {
				t.Errorf("%+v", d)
			}
		}
		if l.asked.Load() != 5 {
			t.Errorf("%d questions", l.asked.Load())
		}
		lines(t, logs)
	})
}

func BenchmarkTakeHot(b *testing.B) { benchmarkTake(b, auth.Rate{Count: 1_000_000, Per: time.Second}) }

func BenchmarkTakeThreeLimits(b *testing.B) {
	benchmarkTake(b, auth.Rate{Count: 1_000_000, Per: time.Second}, auth.Rate{Count: 60_000_000, Per: time.Minute},
		auth.Rate{Count: 2_000_000, Per: time.Second})
}

func benchmarkTake(b *testing.B, rates ...auth.Rate) {
	client, err := kv.Open(realRedis(b))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	l := ratelimit.New(client, zap.NewNop(), time.Now)
	var limits []ratelimit.Limit
	for _, rate := range rates {
		limits = append(limits, limitOf(b, rate.Count, rate.Per))
	}
	allowed := 0
	b.ReportAllocs()
	for b.Loop() {
		if l.Take(b.Context(), 1, limits...).Allowed {
			allowed++
		}
	}
	b.ReportMetric(float64(allowed)/float64(b.N), "allowed/op")
}
