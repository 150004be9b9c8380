package message_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/message"
)

// away makes the tables of queues unavailable until back is called. Those of the broker stay available.
func (f fixture) away(t *testing.T) (back func()) {
	t.Helper()
	rename := func(from, to string) {
		t.Helper()
		f.schema(t, "ALTER TABLE "+from+" RENAME TO "+to)
	}
	rename("queues", "away")
	return func() { t.Helper(); rename("away", "queues") }
}

// TestFailureWhilePostgresIsAway checks that a worker holds a message that it cannot move.
func TestFailureWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", quick)
	tried := make(chan message.Message, 10)
	handler := message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		tried <- m
		if m.Attempt == 1 && string(m.Body) != "first" {
			return errors.New("not yet")
		}
		return nil
	})
	f.worker(t, time.Second, handler)
	f.publish(t, q, "first")
	<-tried
	back := f.away(t)
	id := f.publish(t, q, "a")
	<-tried
	f.line(t, "failed message cannot be moved, trying again")
	if len(tried) != 0 {
		t.Errorf("%+v came again at once", <-tried)
	}
	back()
	if m := <-tried; m.ID != id || m.Attempt != 2 {
		t.Errorf("%+v", m)
	}
	f.gone(t, q)
}

// TestStopWhilePostgresIsAway checks that a message which cannot be moved is given back.
func TestStopWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", quick)
	begun := make(chan struct{}, 1)
	stop := f.worker(t, 10*time.Millisecond, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		if string(m.Body) == "first" {
			begun <- struct{}{}
			return nil
		}
		return errors.New("not yet")
	}))
	f.publish(t, q, "first")
	<-begun
	back := f.away(t)
	id := f.publish(t, q, "a")
	f.line(t, "failed message cannot be moved, trying again")
	stop()
	back()
	if m := one(t, f.subscribe(t, q, 1, long)); m.ID != id {
		t.Errorf("%+v", m)
	}
}

func TestNackWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "orders", quick)
	sub := f.subscribe(t, q, 10, time.Second)
	id := f.publish(t, q, "a")
	one(t, sub)
	back := f.away(t)
	sub.Nack([]message.Nack{{ID: id, Delay: after(0)}})
	nothing(t, sub) // It stays outstanding ...
	if m := one(t, sub); m.ID != id || m.Attempt != 2 {
		t.Errorf("%+v", m) // ... to its ack deadline.
	}
	back()
	sub.Ack([]string{id})
	sub.Close()
	f.gone(t, q)
}

// TestWhatIsCounted checks the counts that a process reports of its deliveries.
func TestWhatIsCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	s := f.process(t, message.Limits{})
	stop := run(t, s.Run)
	g := f
	g.Service = s
	q := f.queueOf(t, "tasks", quick)
	end := g.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		if m.Attempt == 1 {
			return errors.New("not yet")
		}
		return nil
	}))
	f.publish(t, q, "a")
	f.line(t, "message handled")
	end()
	sub := g.subscribe(t, q, 10, long)
	id := f.publish(t, q, "b")
	one(t, sub)
	sub.Ack([]string{id})
	sub.Close()
	stop()
	var delivered, acknowledged int
	if err := f.db.QueryRow(within(t), "SELECT sum(delivered), sum(acknowledged) FROM queue_rates").Scan(&delivered, &acknowledged); err != nil {
		t.Fatal(err)
	}
	if delivered != 3 || acknowledged != 2 {
		t.Errorf("%d delivered, %d acknowledged", delivered, acknowledged)
	}
}

// TestSuspectsAreHandledAlone has two messages that may both have ended the same processes: the one that did it must not
// make the other fail with it again.
func TestSuspectsAreHandledAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", quick)
	f.publish(t, q, "one")
	f.publish(t, q, "other")
	for range 2 {
		sub, err := f.broker.Subscribe(within(t), "default.tasks", 2)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := sub.Receive(within(t)); err != nil {
				t.Fatal(err)
			}
		}
		sub.Close()
	}
	var running atomic.Int32
	handled := make(chan message.Message, 10)
	f.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		if n := running.Add(1); n > 1 {
			t.Errorf("%d are handled at a time", n)
		}
		<-time.After(300 * time.Millisecond)
		running.Add(-1)
		handled <- m
		return nil
	}, message.Concurrency(8)))
	first, second := <-handled, <-handled
	if first.ID == second.ID || first.Attempt != 3 || second.Attempt != 3 {
		t.Errorf("attempt %d of %s, then %d of %s", first.Attempt, first.Body, second.Attempt, second.Body)
	}
	f.line(t, "message waits for another that was cut short too")
	f.gone(t, q)
}
