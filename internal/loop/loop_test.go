package loop_test

import (
	"context"
	"testing"
	"time"

	"plinth/internal/loop"
)

func TestDelayDoublesAndIsBounded(t *testing.T) {
	for _, c := range []struct {
		n        int
		from, to time.Duration
	}{
		{0, 50, 100}, {1, 50, 100}, {2, 100, 200}, {3, 200, 400}, {4, 250, 500}, {1 << 30, 250, 500},
	} {
		for range 1000 {
			if d := loop.Delay(c.n, 100, 500); d < c.from || d > c.to {
				t.Fatalf("after %d failures: %d, want %d to %d", c.n, d, c.from, c.to)
			}
		}
	}
	if d := loop.Delay(1, 0, 0); d != 0 {
		t.Errorf("%d, want none", d)
	}
}

func TestBackoffBeginsAnewAfterReset(t *testing.T) {
	b := loop.Backoff{Min: time.Second, Max: time.Hour}
	for range 5 {
		b.Next()
	}
	if d := b.Next(); d < 16*time.Second {
		t.Errorf("the sixth delay is %v", d)
	}
	b.Reset()
	if d := b.Next(); d > time.Second {
		t.Errorf("after Reset: %v", d)
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if !loop.Sleep(ctx, time.Nanosecond) {
		t.Error("a sleep that was over reported false")
	}
	cancel()
	if loop.Sleep(ctx, time.Hour) {
		t.Error("a sleep that was cut short reported true")
	}
}

func TestEveryCallsUntilTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	loop.Every(ctx, time.Millisecond, func(context.Context) {
		if n++; n == 3 {
			cancel()
		}
	})
	if n != 3 {
		t.Errorf("called %d times", n)
	}
}
