package message_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/message"
)

func TestHandleWantsAName(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a bad queue name was taken")
		}
	}()
	message.Handle("no name", nil)
}

func (f fixture) worker(t *testing.T, drain time.Duration, handlers ...message.Handler) (stop func()) {
	t.Helper()
	w := message.NewWorker(f.Service, handlers, f.log, drain)
	if err := w.EnsureQueues(within(t)); err != nil {
		t.Fatal(err)
	}
	return run(t, w.Run)
}

// line waits for a log line.
func (f fixture) line(t *testing.T, message string) map[string]any {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		if entries := f.logs.FilterMessage(message).All(); len(entries) > 0 {
			return entries[0].ContextMap()
		}
	}
	t.Fatalf("no line %q", message)
	return nil
}

func TestWorkerHandles(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled := make(chan message.Message, 10)
	f.worker(t, time.Second, message.Handle("tasks", func(_ context.Context, m message.Message) error {
		handled <- m
		return nil
	}))
	q := name(t, "tasks")
	id := f.publish(t, q, "hello")
	if m := <-handled; m.ID != id || string(m.Body) != "hello" {
		t.Errorf("%+v", m)
	}
	line := f.line(t, "message handled")
	if line["id"] != id || line["queue"] != "tasks" || line["attempt"] != int64(1) {
		t.Errorf("%v", line)
	}
	f.gone(t, q)
}

// gone waits until a queue has neither waiting nor outstanding messages.
func (f fixture) gone(t *testing.T, q message.QueueName) {
	t.Helper()
	sub := f.subscribe(t, q, 10, long)
	defer sub.Close()
	nothing(t, sub)
}

func TestWorkerRetries(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	type try struct {
		attempt int
		at      time.Time
	}
	tries := make(chan try, 10)
	f.worker(t, time.Second, message.Handle("tasks", func(_ context.Context, m message.Message) error {
		tries <- try{m.Attempt, time.Now()}
		switch m.Attempt {
		case 1:
			return errors.New("not yet")
		case 2:
			panic("not yet either")
		}
		return nil
	}))
	f.publish(t, name(t, "tasks"), "hello")
	first, second, third := <-tries, <-tries, <-tries
	if first.attempt != 1 || second.attempt != 2 || third.attempt != 3 {
		t.Errorf("attempts %d %d %d", first.attempt, second.attempt, third.attempt)
	}
	// The first back-off is a second less up to a half, the second twice that.
	if d := second.at.Sub(first.at); d < 450*time.Millisecond {
		t.Errorf("tried again after %v", d)
	}
	if d := third.at.Sub(second.at); d < 900*time.Millisecond {
		t.Errorf("tried a third time after %v", d)
	}
	if f.logs.FilterMessage("message failed").Len() != 2 {
		t.Error("failures are not in the log")
	}
}

func TestWorkerConcurrency(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	var running atomic.Int32
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	f.worker(t, time.Second, message.Handle("tasks", func(context.Context, message.Message) error {
		if running.Add(1) > 3 {
			t.Error("more than three at a time")
		}
		defer running.Add(-1)
		entered <- struct{}{}
		<-leave
		return nil
	}, message.Concurrency(3)))
	for range 6 {
		f.publish(t, name(t, "tasks"), "hello")
	}
	for range 3 {
		<-entered
	}
	select {
	case <-entered:
		t.Error("a fourth began")
	case <-time.After(200 * time.Millisecond):
	}
	close(leave)
	for range 3 {
		<-entered
	}
}

func TestWorkerFinishesWhatItHolds(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	entered, leave := make(chan struct{}), make(chan struct{})
	stop := f.worker(t, time.Minute, message.Handle("tasks", func(ctx context.Context, _ message.Message) error {
		close(entered)
		<-leave
		return ctx.Err()
	}))
	q := name(t, "tasks")
	f.publish(t, q, "held")
	<-entered
	go func() {
		<-time.After(200 * time.Millisecond) // The worker is told to stop meanwhile.
		close(leave)
	}()
	stop()
	f.line(t, "message handled")
	f.gone(t, q)
	// It takes no more.
	f.publish(t, q, "later")
	one(t, f.subscribe(t, q, 1, long))
}

func TestWorkerGivesUpAfterTheDrain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	entered := make(chan struct{})
	stop := f.worker(t, 50*time.Millisecond, message.Handle("tasks", func(ctx context.Context, m message.Message) error {
		if m.Attempt > 1 {
			return nil
		}
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}))
	q := name(t, "tasks")
	id := f.publish(t, q, "slow")
	<-entered
	stop()
	if m := one(t, f.subscribe(t, q, 1, long)); m.ID != id {
		t.Errorf("%+v came, want the message that was cut off", m)
	}
}

// TestWorkerWaitsForItsQueue deletes the queue under a worker, and makes it again.
func TestWorkerWaitsForItsQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled := make(chan string, 10)
	f.worker(t, time.Second, message.Handle("tasks", func(_ context.Context, m message.Message) error {
		handled <- m.ID
		return nil
	}))
	q := name(t, "tasks")
	f.publish(t, q, "a")
	<-handled
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	f.line(t, "queue cannot be used, trying again")
	f.queue(t, "tasks")
	id := f.publish(t, q, "b")
	select {
	case got := <-handled:
		if got != id {
			t.Errorf("got %s", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("the worker did not come back")
	}
}
