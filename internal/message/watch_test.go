package message_test

import (
	"context"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// watching is somebody who watches a queue.
type watching struct {
	readings chan message.Status
	ended    chan error
	stop     context.CancelFunc
}

func (f fixture) watch(t *testing.T, q message.QueueName) watching {
	ctx, stop := context.WithCancel(auth.With(t.Context(), auth.Anonymous())) // until bounds it: what is held is told every ten seconds.
	w := watching{make(chan message.Status, 100), make(chan error, 1), stop}
	go func() {
		w.ended <- f.WatchQueue(ctx, q, func(s message.Status) error { w.readings <- s; return nil })
	}()
	t.Cleanup(stop)
	return w
}

// until returns the first reading for which so is true.
func (w watching) until(t *testing.T, what string, so func(message.Status) bool) message.Status {
	t.Helper()
	var last message.Status
	deadline := time.After(15 * time.Second)
	for {
		select {
		case last = <-w.readings:
			if so(last) {
				return last
			}
		case err := <-w.ended:
			t.Fatalf("%s: the watch ended: %v", what, err)
		case <-deadline:
			t.Fatalf("%s: the last reading is %+v", what, last)
		}
	}
}

func TestWatchQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	w := f.watch(t, q)
	if s := w.until(t, "at once", func(message.Status) bool { return true }); s.Stats != (message.Stats{}) || s.OldestAge != nil || s.Queue != q {
		t.Errorf("%+v", s)
	}
	f.publish(t, q, "a")
	f.publish(t, q, "b")
	f.later(t, q, "")
	f.letters(t, q, 1)
	s := w.until(t, "what is in it", func(s message.Status) bool {
		return s.Stats.Depth == 2 && s.Stats.Waiting == 1 && s.Stats.DeadLetters == 1
	})
	if s.OldestAge == nil || *s.OldestAge > 10*time.Second {
		t.Errorf("the oldest is %v old", s.OldestAge)
	}
	f.pullOne(t, request(q, 1))
	w.until(t, "what was pulled", func(s message.Status) bool { return s.Stats.Depth == 1 && s.Stats.Pulled == 1 })
	start := time.Now()
	f.pause(t, q)
	w.until(t, "a pause", func(s message.Status) bool { return s.Paused })
	if after := time.Since(start); after > 900*time.Millisecond {
		t.Errorf("the pause is seen after %v", after)
	}
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if err := <-w.ended; !errs.Is(err, errs.NotFound) {
		t.Errorf("the watch ends with %v", err)
	}
	if err := f.WatchQueue(within(t), q, nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("a queue that is gone: %v", err)
	}
}

// TestWatchersShareReadings has many watch one queue: each of them sees the same readings.
func TestWatchersShareReadings(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	first := f.watch(t, q)
	first.until(t, "at once", func(message.Status) bool { return true })
	others := make([]watching, 50)
	for i := range others {
		others[i] = f.watch(t, q)
		others[i].until(t, "at once", func(message.Status) bool { return true })
	}
	at := first.until(t, "another reading", func(message.Status) bool { return true }).At
	for _, w := range others {
		w.until(t, "the same reading", func(s message.Status) bool { return s.At.Equal(at) })
	}
	others[0].stop()
	if err := <-others[0].ended; err != context.Canceled {
		t.Errorf("ended with %v", err)
	}
	first.until(t, "the others go on", func(s message.Status) bool { return s.At.After(at) })
}

func TestWatchCountsWhatStreamsHold(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.publish(t, q, "a")
	sub := f.subscribe(t, q, 1, long)
	one(t, sub)
	f.watch(t, q).until(t, "what the stream holds", func(s message.Status) bool { return s.Outstanding == 1 })
}
