package message_test

import (
	"context"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
)

func (f fixture) pause(t *testing.T, q message.QueueName) {
	t.Helper()
	if got, err := f.PauseQueue(within(t), q); err != nil || !got.Paused {
		t.Fatalf("paused: %+v %v", got, err)
	}
}

func (f fixture) resume(t *testing.T, q message.QueueName) {
	t.Helper()
	if got, err := f.ResumeQueue(within(t), q); err != nil || got.Paused {
		t.Fatalf("resumed: %+v %v", got, err)
	}
}

// depth blocks until a queue has the given number of messages.
func (f fixture) depth(t *testing.T, q message.QueueName, want int64) {
	t.Helper()
	var got int64
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		described, err := f.GetQueue(within(t), q)
		if err != nil {
			t.Fatal(err)
		}
		if got = described.Stats.Depth; got == want {
			return
		}
	}
	t.Fatalf("%d messages wait, want %d", got, want)
}

// another returns the service in another process.
func (f fixture) another(t *testing.T) fixture {
	t.Helper()
	f.Service = f.process(t, message.Limits{})
	run(t, f.Run)
	return f
}

func TestPause(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "others")
	here, there := f.subscribe(t, q, 2, long), f.another(t).subscribe(t, q, 2, long)
	beside := f.subscribe(t, other, 2, long)
	id := f.publish(t, q, "held")
	first, second := here, there
	select { // Either of them gets it.
	case m := <-taken(t, here):
		if m.ID != id {
			t.Errorf("%+v", m)
		}
	case m := <-taken(t, there):
		if m.ID != id {
			t.Errorf("%+v", m)
		}
		first, second = there, here
	}
	f.pause(t, q)
	<-time.After(time.Second) // After that it is in effect everywhere.
	later := f.publish(t, q, "later")
	nothing(t, first)
	nothing(t, second)
	if id := f.publish(t, other, "beside"); one(t, beside).ID != id {
		t.Error("another queue is paused as well")
	}
	// What is outstanding can be settled, and what was prefetched goes back.
	first.Ack([]string{id})
	f.depth(t, q, 1)
	second.Close()
	f.resume(t, q)
	start := time.Now()
	if m := one(t, first); m.ID != later || time.Since(start) > time.Second {
		t.Errorf("%+v after %v", m, time.Since(start))
	}
}

// taken takes one message in the background, if one comes within the test.
func taken(t *testing.T, sub *message.Subscription) <-chan message.Message {
	got := make(chan message.Message, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	go func() {
		defer cancel()
		if batch, err := sub.Next(ctx); err == nil {
			got <- batch[0]
		}
	}()
	return got
}

func TestSubscriptionOfAPausedQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.pause(t, q)
	id := f.publish(t, q, "a")
	sub := f.subscribe(t, q, 10, long)
	nothing(t, sub)
	elsewhere := f.another(t).subscribe(t, q, 10, long)
	nothing(t, elsewhere)
	elsewhere.Close()
	f.depth(t, q, 1)
	f.resume(t, q)
	if m := one(t, sub); m.ID != id || m.Attempt != 1 {
		t.Errorf("%+v", m)
	}
	f.pause(t, q)
	sub.Close() // Its lease ends, as ever.
	f.depth(t, q, 1)
	sub = f.subscribe(t, q, 10, long)
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Next(within(t)); !errs.Is(err, errs.NotFound) {
		t.Errorf("a paused queue that was deleted: %v", err)
	}
}

func TestWorkerPauses(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	entered, leave := make(chan string, 10), make(chan struct{})
	f.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		entered <- string(m.Body)
		<-leave
		return nil
	}))
	q := name(t, "tasks")
	f.publish(t, q, "first")
	<-entered
	f.publish(t, q, "second")
	f.publish(t, q, "third")
	f.pause(t, q)
	<-time.After(time.Second)
	leave <- struct{}{}
	f.depth(t, q, 2)
	select {
	case body := <-entered:
		t.Errorf("%s was handled in the pause", body)
	case <-time.After(300 * time.Millisecond):
	}
	close(leave)
	f.resume(t, q)
	<-entered
	<-entered
}

// TestPauseWithoutNotification checks that a pause takes effect if its notification is lost.
func TestPauseWithoutNotification(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	sub := f.subscribe(t, q, 10, long)
	if _, err := f.db.Exec(within(t), "UPDATE queues SET paused = true"); err != nil {
		t.Fatal(err)
	}
	<-time.After(16 * time.Second)
	f.publish(t, q, "a")
	nothing(t, sub)
}

// TestOpeningReadsOneQueue opens a queue that was paused a moment ago, in a process that does nothing in the background.
func TestOpeningReadsOneQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "others")
	f.Service = f.process(t, message.Limits{})
	f.exec(t, `UPDATE queues SET paused = true`)
	f.subscribe(t, q, 2, long)
	f.publish(t, q, "held")
	f.depth(t, q, 1)
	if paused := f.KnownPaused(); !paused[q] || paused[other] {
		t.Errorf("known to be paused: %v", paused)
	}
}
