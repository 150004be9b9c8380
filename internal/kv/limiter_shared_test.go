package kv_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/kv"
)

// span is when a token was taken: at some time between the two.
type span struct{ from, to time.Duration }

// TestNeverMore has two processes hammer a limit, and looks at every time that begins with one call and ends with another.
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
							if most := float64(count) + float64(s.to-begin.from)*perNano; float64(within) > most+1e-3 {
								t.Fatalf("from call %d, %d of %d allowed in %v", i, within, len(spans), s.to-begin.from)
							}
						}
					}
				}
			})
		}
	})
}

// hammer goes on until one and a half of the count are allowed, and a few more.
func hammer(t *testing.T, url string, limit kv.Limit) (spans []span) {
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

// TestExactAmongProcesses has many callers of two processes share a limit that takes hours to come back.
func TestExactAmongProcesses(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
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
			if allowed.Load() != count {
				t.Errorf("%d of %d", allowed.Load(), count)
			}
		}
	})
}

// TestAllOrNothing has a call that one limit refuses leave the others as they were.
func TestAllOrNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		wide, narrow := limitOf(t, 40, 1_000*time.Hour), limitOf(t, 20, 1_000*time.Hour)
		var allowed atomic.Int64
		var wg sync.WaitGroup
		for i := range 2 {
			l := newLimiter(t, url, zap.NewNop(), time.Now)
			limits := []kv.Limit{wide, narrow}
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
		// A process that knows nothing yet has Redis refuse.
		l := newLimiter(t, url, zap.NewNop(), time.Now)
		if d := l.Take(t.Context(), 1, wide, narrow); d.Allowed || d.Limit != narrow.Rate || l.asked.Load() != 1 {
			t.Errorf("%+v after %d questions", d, l.asked.Load())
		}
		if n := l.until(t, wide); allowed.Load() != 20 || n != 20 {
			t.Errorf("%d of 20 allowed, which left %d of 20", allowed.Load(), n)
		}
	})
}

// TestAllOrNothingOfAhead is the same for tokens that were taken ahead: as many are left as without the refused calls.
func TestAllOrNothingOfAhead(t *testing.T) {
	t.Parallel()
	left := func(refused int) int64 {
		c := newClock(t)
		l, other := c.limiter(t), c.limiter(t)
		wide, narrow := limitOf(t, 1_000, time.Second), limitOf(t, 1, 1_000*time.Hour)
		for range 12 {
			l.Take(t.Context(), 1, wide)
		}
		other.Take(t.Context(), 1, narrow)
		for range refused { // Redis refuses the first, the process knows of the rest.
			if l.Take(t.Context(), 1, wide, narrow).Allowed {
				t.Fatal("allowed")
			}
		}
		return l.until(t, wide)
	}
	want := left(0)
	for _, refused := range []int{1, 2, 5_000} {
		if n := left(refused); n != want || n < 960 {
			t.Errorf("%d were left of %d after %d that were refused", n, want, refused)
		}
	}
}

// TestAheadIsGivenUp has a process take ahead, and then all there is be used at once.
func TestAheadIsGivenUp(t *testing.T) {
	t.Parallel()
	const hold = 20 * time.Millisecond
	for _, idle := range []time.Duration{0, hold / 2, hold - 1, hold, 3 * hold / 2, 5 * hold, time.Second} {
		t.Run(idle.String(), func(t *testing.T) {
			t.Parallel()
			c := newClock(t)
			a, b := c.limiter(t), c.limiter(t)
			limit := limitOf(t, 1_000, time.Second)
			for calls, asked := 0, int64(0); calls < 50 || a.asked.Load() == asked; calls++ { // until just after a question
				c.pass(2 * time.Millisecond)
				asked = a.asked.Load()
				a.Take(t.Context(), 1, limit)
			}
			c.pass(idle)
			others := limit.Rate.Count
			if d := b.Take(t.Context(), others, limit); !d.Allowed {
				others = d.Remaining
				if d = b.Take(t.Context(), others, limit); !d.Allowed {
					t.Errorf("%d were said to remain: %+v", others, d)
				}
			}
			own := a.until(t, limit)
			if others+own > limit.Rate.Count || others < limit.Rate.Count-30 || own > 0 != (idle < hold) {
				t.Errorf("%d and %d allowed at once", others, own)
			}
		})
	}
}

// TestFewQuestions counts what a limit costs.
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
	asked, allowed := l.asked.Load(), 0
	for range 20_000 { // a second at twice the rate
		if l.Take(t.Context(), 1, limit).Allowed {
			allowed++
		}
		c.pass(50 * time.Microsecond)
	}
	if n := l.asked.Load() - asked; n > 600 || allowed < 9_900 || allowed > 10_000 {
		t.Errorf("%d questions for 20,000 calls, of which %d of 10,000 were allowed", n, allowed)
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

// TestFewAreWasted has many processes with few calls each share a limit that has room for a few more.
func TestFewAreWasted(t *testing.T) {
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

// TestConcurrent holds the questions of a process back until all of them are asked.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	const callers = 10
	c := newClock(t)
	l := c.limiter(t)
	l.SetPatience(10 * time.Second)
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

// TestConcurrentAhead has callers wait for what one of them brings.
func TestConcurrentAhead(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	l := c.limiter(t)
	limit, second := limitOf(t, 100_000, time.Second), limitOf(t, 200_000, time.Second)
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 1_000 {
				if l.Take(t.Context(), 1, limit, second).Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := l.asked.Load(); allowed.Load() != 20_000 || n > 200 {
		t.Errorf("%d of 20,000 allowed with %d questions", allowed.Load(), n)
	}
}

func TestKeysExpire(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := newLimiter(t, url, zap.NewNop(), time.Now)
		for _, limit := range []kv.Limit{limitOf(t, 10, time.Hour), limitOf(t, 1_000, time.Hour), limitOf(t, 1, time.Second)} {
			l.Take(t.Context(), 1, limit)
			per := limit.Rate.Per / time.Duration(limit.Rate.Count)
			ttl, err := l.client.PTTL(t.Context(), "plinth:rate:"+limit.Key).Result()
			if err != nil || ttl <= 0 || ttl > per+time.Millisecond {
				t.Errorf("%+v: %v %v", limit.Rate, ttl, err)
			}
		}
	})
}
