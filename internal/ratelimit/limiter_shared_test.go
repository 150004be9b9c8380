package ratelimit_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/ratelimit"
)

// tooMany is how much more than a count two processes may allow.
func tooMany(count int64) int64 { return 2 * (count / 100) }

// span is the time in which a token was taken: from before the call to after it.
type span struct{ from, to time.Duration }

// TestNeverMore has two processes hammer a limit, and checks every interval that begins with one call and ends with another.
func TestNeverMore(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		for _, count := range []int64{1, 5, 10, 100, 1_000} {
			t.Run(fmt.Sprint(count), func(t *testing.T) {
				limit := limitOf(t, count, 200*time.Millisecond)
				spans := hammer(t, url, limit)
				perNano := float64(count) / float64(limit.Rate.Per)
				slices.SortFunc(spans, func(a, b span) int { return int(a.to - b.to) })
				for i, begin := range spans {
					within := 0
					for _, s := range spans {
						if s.from >= begin.from {
							within++
							if most := float64(count) + float64(tooMany(count)) + float64(s.to-begin.from)*perNano; float64(within) > most+1e-3 {
								t.Fatalf("from call %d, %d of %d allowed in %v", i, within, len(spans), s.to-begin.from)
							}
						}
					}
				}
			})
		}
	})
}

// hammer takes tokens until one and a half times the count were allowed, and a few more.
func hammer(t *testing.T, url string, limit ratelimit.Limit) (spans []span) {
	start := time.Now()
	var left atomic.Int64
	left.Store(limit.Rate.Count*3/2 + 5)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 2 {
		l := newLimiter(t, url, zap.NewNop(), time.Now)
		for range 8 {
			wg.Go(func() {
				for left.Load() > 0 {
					from := time.Since(start)
					if l.Take(t.Context(), 1, limit).Allowed {
						left.Add(-1)
						mu.Lock()
						spans = append(spans, span{from, time.Since(start)})
						mu.Unlock()
					}
				}
			})
		}
	}
	wg.Wait()
	return spans
}

// TestExactAmongProcesses has many callers in two processes share a limit that takes hours to refill.
func TestExactAmongProcesses(t *testing.T) { onBoth(t, exactAmongProcesses) }

func exactAmongProcesses(t *testing.T, url string) {
	for _, count := range []int64{1, 5, 10, 100, 1_000} {
		limit := limitOf(t, count, 1_000*time.Hour)
		var allowed atomic.Int64
		var wg sync.WaitGroup
		for range 2 {
			l := newLimiter(t, url, zap.NewNop(), time.Now)
			for range 10 {
				wg.Go(func() {
					for l.Take(t.Context(), 1, limit).Allowed {
						allowed.Add(1)
					}
				})
			}
		}
		wg.Wait()
		if n := allowed.Load(); n < count || n > count+tooMany(count) {
			t.Errorf("%d of %d", n, count)
		}
	}
}

// TestAllOrNothing checks that a call which one limit refuses does not change the others.
func TestAllOrNothing(t *testing.T) { onBoth(t, allOrNothing) }

func allOrNothing(t *testing.T, url string) {
	wide, narrow := limitOf(t, 40, 1_000*time.Hour), limitOf(t, 20, 1_000*time.Hour)
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for i := range 2 {
		l := newLimiter(t, url, zap.NewNop(), time.Now)
		limits := []ratelimit.Limit{wide, narrow}
		if i == 1 {
			slices.Reverse(limits)
		}
		for range 10 {
			wg.Go(func() {
				for range 10 {
					if l.Take(t.Context(), 1, limits...).Allowed {
						allowed.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	// For a process that knows nothing yet, Redis refuses.
	l := newLimiter(t, url, zap.NewNop(), time.Now)
	if d := l.Take(t.Context(), 1, wide, narrow); d.Allowed || d.Limit != narrow.Rate || l.asked.Load() != 1 {
		t.Errorf("%+v after %d questions", d, l.asked.Load())
	}
	if n := l.until(t, wide); allowed.Load() != 20 || n != 20 {
		t.Errorf("%d of 20 allowed, which left %d of 20", allowed.Load(), n)
	}
}

// TestAllOrNothingUnreported checks the same with tokens that are not reported yet, and with tokens that are reported
// meanwhile: as many are left as without the refused calls.
func TestAllOrNothingUnreported(t *testing.T) {
	t.Parallel()
	for _, reported := range []bool{false, true} {
		c := newClock(t)
		l, other := c.limiter(t), c.limiter(t)
		wide := limitOf(t, 1_000, 1_000*time.Hour)
		var report atomic.Bool
		l.before = func() {
			if report.CompareAndSwap(true, false) {
				go l.Report() // Possibly while another report runs.
				time.Sleep(2 * time.Millisecond)
			}
		}
		for range 30 {
			narrow := limitOf(t, 1, 1_000*time.Hour)
			other.Take(t.Context(), 1, narrow)
			l.Take(t.Context(), 1, wide)
			report.Store(reported) // once the refused call has taken from wide
			for range 100 {        // Redis refuses the first; for the rest the process knows.
				if l.Take(t.Context(), 1, wide, narrow).Allowed {
					t.Fatal("allowed")
				}
			}
		}
		l.Report()
		if n := other.until(t, wide); n != 970 {
			t.Errorf("reported meanwhile %v: %d were left of 970", reported, n)
		}
	}
}

// TestUnreported has processes take tokens without asking while another process takes the last ones. Each exceeds the limit
// by at most a hundredth, which is subtracted from what is allowed next.
func TestUnreported(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	limit := limitOf(t, 1_000, time.Second)
	if n := c.limiter(t).until(t, limit); n != 1_000 {
		t.Errorf("%d of 1,000 by one process", n)
	}
	for range 3 {
		late := c.limiter(t)
		if n := late.until(t, limit); n != 10 {
			t.Errorf("%d by a process that did not know", n)
		}
		late.Report()
	}
	c.pass(30 * time.Millisecond)
	if d := c.limiter(t).Take(t.Context(), 20, limit); d.Allowed || d.RetryAfter != 20*time.Millisecond {
		t.Errorf("30 too much came off as %+v", d)
	}
	c.pass(20 * time.Millisecond)
	if d := c.limiter(t).Take(t.Context(), 20, limit); !d.Allowed {
		t.Errorf("%+v", d)
	}
}

// TestReported checks that tokens are reported after a while, and by Close.
func TestReported(t *testing.T) { onBoth(t, reported) }

func reported(t *testing.T, url string) {
	for name, report := range map[string]func(*limiter){
		"soon": func(l *limiter) {
			eventually(t, "a question", func() bool { return l.asked.Load() >= 1 })
			l.Report() // those that came just after
		},
		"end": func(l *limiter) { l.Close() },
	} {
		l, other := newLimiter(t, url, zap.NewNop(), time.Now), newLimiter(t, url, zap.NewNop(), time.Now)
		var limits []ratelimit.Limit
		for i := range 250 {
			limit := limitOf(t, 1_000, 1_000*time.Hour)
			limit.Tenant = fmt.Sprintf("t%d", i%50)
			l.Take(t.Context(), 7, limit)
			limits = append(limits, limit)
		}
		report(l)
		if n := l.asked.Load(); n > 10 {
			t.Errorf("%s: reported with %d questions", name, n)
		}
		for _, limit := range limits {
			if d := other.Take(t.Context(), 600, limit); d.Remaining != 393 {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
}

// TestPaces checks that a few tokens are reported late, and more of them soon.
func TestPaces(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	knows := func(limit ratelimit.Limit) func() bool {
		return func() bool { return c.Exists(keyOf(limit)) }
	}
	l, limit := c.limiter(t), limitOf(t, 1_000, time.Hour)
	l.SetPaces(time.Millisecond, time.Hour)
	l.Take(t.Context(), 4, limit)
	time.Sleep(50 * time.Millisecond)
	if knows(limit)() || l.asked.Load() != 0 {
		t.Error("4 tokens are reported at once")
	}
	l.Take(t.Context(), 1, limit)
	eventually(t, "5 tokens are reported", knows(limit))
	if d := c.limiter(t).Take(t.Context(), 600, limit); d.Remaining != 395 {
		t.Errorf("%+v", d)
	}

	l, limit = c.limiter(t), limitOf(t, 1_000, time.Hour)
	l.SetPaces(time.Hour, time.Millisecond)
	l.Take(t.Context(), 1, limit)
	eventually(t, "one token is reported", knows(limit))
}

// TestReportedLate reports tokens of which some have come back meanwhile.
func TestReportedLate(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l, other := c.limiter(t), c.limiter(t)
	limit := limitOf(t, 1_000, time.Second)
	l.Take(t.Context(), 1, limit)
	l.Take(t.Context(), 3, limit)
	c.pass(3 * time.Millisecond)
	if d := l.Take(t.Context(), 1_000, limit); d.Allowed || d.RetryAfter != time.Millisecond {
		t.Errorf("with one of 4 not back yet: %+v", d)
	}
	c.pass(time.Millisecond)
	if d := l.Take(t.Context(), 1_000, limit); !d.Allowed {
		t.Errorf("with all 4 back: %+v", d)
	}
	c.pass(time.Second)
	l.Take(t.Context(), 4, limit)
	c.pass(time.Millisecond)
	other.Take(t.Context(), 601, limit)
	c.pass(100 * time.Millisecond)
	l.Report() // of 4, which come back after the 601
	if d := other.Take(t.Context(), 400, limit); !d.Allowed || d.Remaining != 95 {
		t.Errorf("%+v", d)
	}
}

// TestTakenMeanwhile takes tokens while others are being reported and asked for. All of them count at once.
func TestTakenMeanwhile(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.limiter(t)
	limit := limitOf(t, 1_000, 1_000*time.Hour)
	take := func(n, remaining int64) {
		t.Helper()
		if d := l.Take(t.Context(), n, limit); d.Remaining != remaining {
			t.Errorf("%d remain after %d more, want %d", d.Remaining, n, remaining)
		}
	}
	take(4, 996)
	var first atomic.Bool
	l.before = func() {
		if !first.Swap(true) {
			take(20, 980) // asks, and Redis does not know of the 4 yet
			take(1, 975)
			take(2, 973)
		}
	}
	l.Report()
	take(1, 972)
}

// TestFewQuestions counts how often a limit asks Redis.
func TestFewQuestions(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.limiter(t)
	limit := limitOf(t, 10_000, time.Second)
	for range 10_000 { // two seconds at half the rate
		if d := l.Take(t.Context(), 1, limit); !d.Allowed {
			t.Fatalf("%+v", d)
		}
		c.pass(200 * time.Microsecond)
	}
	if n := l.asked.Load(); n > 300 {
		t.Errorf("%d questions for 10,000 calls", n)
	}
	l.until(t, limit)
	asked, allowed := l.asked.Load(), int64(0)
	calls := int64(2_000)
	if os.Getenv("CI") == "true" {
		calls = 5_000
	}
	for range calls { // at twice the rate
		if l.Take(t.Context(), 1, limit).Allowed {
			allowed++
		}
		c.pass(50 * time.Microsecond)
	}
	if n := l.asked.Load() - asked; n > allowed+10 || allowed < calls/2-10 || allowed > calls/2 {
		t.Errorf("%d questions for %d calls, of which %d were allowed", n, calls, allowed)
	}
	small := limitOf(t, 1, time.Hour)
	l.Take(t.Context(), 1, small)
	asked = l.asked.Load()
	for range 1_000 {
		l.Take(t.Context(), 1, small)
		c.pass(time.Second)
	}
	if n := l.asked.Load() - asked; n != 0 {
		t.Errorf("%d questions for calls that are refused for an hour", n)
	}
}

// TestNothingIsWasted has many processes with few calls each share a limit that has room for all of them.
func TestNothingIsWasted(t *testing.T) {
	t.Parallel()
	for _, perSecond := range []float64{10, 50, 200} {
		t.Run(fmt.Sprint(perSecond), func(t *testing.T) {
			t.Parallel()
			c := newClock(t)
			limit := limitOf(t, 1_000, time.Second)
			all := make([]*limiter, int(800/perSecond))
			for i := range all {
				all[i] = c.limiter(t)
			}
			random := rand.New(rand.NewPCG(1, 2))
			least := int64(math.MaxInt64)
			for range 1_500 {
				d := all[random.IntN(len(all))].Take(t.Context(), 1, limit)
				if !d.Allowed {
					t.Fatalf("%+v", d)
				}
				least = min(least, d.Remaining)
				c.pass(time.Duration(random.ExpFloat64() / 800 * float64(time.Second)).Truncate(time.Microsecond))
			}
			t.Logf("at least %d of 1,000 remained", least)
		})
	}
}

func TestKeysExpire(t *testing.T) { onBoth(t, keysExpire) }

func keysExpire(t *testing.T, url string) {
	l := newLimiter(t, url, zap.NewNop(), time.Now)
	for _, limit := range []ratelimit.Limit{limitOf(t, 10, time.Hour), limitOf(t, 1_000, time.Hour), limitOf(t, 1, time.Second)} {
		l.Take(t.Context(), 1, limit)
		l.Report()
		per := limit.Rate.Per / time.Duration(limit.Rate.Count)
		ttl, err := l.client.PTTL(t.Context(), keyOf(limit)).Result()
		if err != nil || ttl <= 0 || ttl > per+time.Millisecond {
			t.Errorf("%+v: %v %v", limit.Rate, ttl, err)
		}
	}
}
