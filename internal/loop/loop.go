// Package loop is what long-running parts have in common: sleeping that ends with a context, and back-off with jitter.
package loop

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep blocks for d. It reports false when ctx ended before.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Signal puts a token in a channel that has room for one, unless there is one already.
func Signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Every calls f at intervals until ctx ends. Each interval is shorter by a random part of up to a tenth, so that processes
// that started together do not go on together.
func Every(ctx context.Context, interval time.Duration, f func(ctx context.Context)) {
	for Sleep(ctx, interval-rand.N(interval/10+1)) {
		f(ctx)
	}
}

// Backoff is a delay that doubles with each failure. The zero n is before the first one.
type Backoff struct {
	Min, Max time.Duration
	n        int
}

// Next returns the delay after one more failure.
func (b *Backoff) Next() time.Duration {
	b.n++
	return Delay(b.n, b.Min, b.Max)
}

// Reset forgets the failures.
func (b *Backoff) Reset() { b.n = 0 }

// Delay returns the delay after n failures, for who counts them elsewhere: shortest for the first, twice that for the second,
// never above longest. A random part of up to a half is taken off.
func Delay(n int, shortest, longest time.Duration) time.Duration {
	delay := shortest
	for ; n > 1 && delay < longest; n-- {
		delay *= 2
	}
	delay = min(delay, longest)
	return delay - rand.N(delay/2+1)
}
