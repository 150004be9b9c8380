// Package loop has helpers for long-running loops: a sleep that ends with a context, and back-off with jitter.
package loop

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep blocks for d. It reports false if ctx ended first.
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

// Signal sends a token on a channel with a buffer of one, unless there is a token in it already.
func Signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Every calls f at intervals until ctx ends. Each interval is shortened by a random part of up to a tenth, so that processes
// that started together drift apart.
func Every(ctx context.Context, interval time.Duration, f func(ctx context.Context)) {
	for Sleep(ctx, interval-rand.N(interval/10+1)) {
		f(ctx)
	}
}

// Backoff is a delay that doubles with each failure. The zero value of n means no failure yet.
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

// Delay returns the delay after n failures, for callers that count them elsewhere: shortest after the first, doubling with
// each further one, but never above longest. A random part of up to a half is subtracted.
func Delay(n int, shortest, longest time.Duration) time.Duration {
	delay := shortest
	for ; n > 1 && delay < longest; n-- {
		delay *= 2
	}
	delay = min(delay, longest)
	return delay - rand.N(delay/2+1)
}
