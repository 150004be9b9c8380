package message_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

func TestHandleWantsAName(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a bad queue name was taken")
		}
	}()
	message.HandleBytes("no name", nil)
}

// worker runs a worker for the default tenant.
func (f fixture) worker(t *testing.T, drain time.Duration, handlers ...message.Handler) (stop func()) {
	t.Helper()
	return f.workerFor(t, actives(auth.DefaultTenant).list, drain, handlers...)
}

func (f fixture) workerFor(t *testing.T, tenants message.Tenants, drain time.Duration, handlers ...message.Handler) (stop func()) {
	t.Helper()
	w := message.NewWorker(message.WorkerConfig{Service: f.Service, Handlers: handlers, Tenants: tenants, Drain: drain, Lines: f.log})
	if err := w.EnsureQueues(within(t)); err != nil {
		t.Fatal(err)
	}
	f.relay(t)
	stopWork, stopHandlers := run(t, f.Work), run(t, w.Run)
	return func() {
		stopHandlers()
		stopWork()
	}
}

// line blocks until there is a log line.
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
	f.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
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

// TestHandlerTimeout has handlers, with and without a transaction, go on until their time is over: the attempt failed.
func TestHandlerTimeout(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	var attempts atomic.Int64
	slow := func(ctx context.Context) error {
		if attempts.Add(1) > 2 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	f.worker(t, time.Minute,
		message.HandleBytes("alone", func(ctx context.Context, _ message.Message) error { return slow(ctx) }, message.Timeout(time.Second)),
		message.HandleBytesTx("within", func(ctx context.Context, _ *pg.Tx, _ message.Message) error { return slow(ctx) }, message.Timeout(time.Second)))
	for _, queue := range []string{"alone", "within"} {
		f.publish(t, name(t, queue), "slow")
	}
	eventually(t, "both are handled at last", func() bool { return f.logs.FilterMessage("message handled").Len() == 2 })
	failed := f.logs.FilterMessage("message failed").All()
	if len(failed) != 2 {
		t.Fatalf("%d attempts failed, want 2", len(failed))
	}
	for _, line := range failed {
		if reason := line.ContextMap()["reason"].(string); !strings.HasPrefix(reason, "the handler took longer than 1s") {
			t.Errorf("the reason is %q", reason)
		}
	}
}

// gone blocks until a queue has neither waiting nor outstanding messages.
func (f fixture) gone(t *testing.T, q message.QueueName) {
	t.Helper()
	sub := f.subscribe(t, q, 10, long)
	defer sub.Close()
	nothing(t, sub)
}

// quick is a policy with short back-offs.
var quick = message.Policy{MaxAttempts: 3, MinBackoff: 20 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}

func (f fixture) queueOf(t *testing.T, s string, policy message.Policy) message.QueueName {
	t.Helper()
	q := name(t, s)
	if _, err := f.CreateQueue(within(t), q, policy); err != nil {
		t.Fatal(err)
	}
	return q
}

// dead blocks until there are the given number of dead letters.
func (f fixture) dead(t *testing.T, q message.QueueName, n int) []message.DeadLetter {
	t.Helper()
	var letters []message.DeadLetter
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		var err error
		if letters, _, err = f.ListDeadLetters(within(t), q, message.Filter{}, 1000, ""); err != nil {
			t.Fatal(err)
		}
		if len(letters) >= n {
			break
		}
	}
	if len(letters) != n {
		t.Fatalf("%d dead letters, want %d", len(letters), n)
	}
	return letters
}

func TestWorkerConcurrency(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	var running atomic.Int32
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	f.worker(t, time.Second, message.HandleBytes("tasks", func(context.Context, message.Message) error {
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
	stop := f.worker(t, time.Minute, message.HandleBytes("tasks", func(ctx context.Context, _ message.Message) error {
		close(entered)
		<-leave
		return ctx.Err()
	}))
	q := name(t, "tasks")
	f.publish(t, q, "held")
	<-entered
	go func() {
		<-time.After(200 * time.Millisecond) // The worker is stopped meanwhile.
		close(leave)
	}()
	stop()
	f.line(t, "message handled")
	f.gone(t, q)
	// The worker takes no more messages.
	f.publish(t, q, "later")
	one(t, f.subscribe(t, q, 1, long))
}

func TestDrainIsNoFailure(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	entered := make(chan struct{})
	stop := f.worker(t, 50*time.Millisecond, message.HandleBytes("tasks", func(ctx context.Context, _ message.Message) error {
		close(entered)
		<-ctx.Done()
		return errs.Permanent(ctx.Err())
	}))
	q := name(t, "tasks")
	id := f.publish(t, q, "slow")
	<-entered
	stop()
	if m := one(t, f.subscribe(t, q, 1, long)); m.ID != id {
		t.Errorf("%+v came, want the message that was cut off", m)
	}
	if stats, err := f.GetQueue(within(t), q); err != nil || stats.Stats.Waiting+stats.Stats.DeadLetters != 0 {
		t.Errorf("%+v %v", stats.Stats, err)
	}
	if f.logs.FilterMessage("message failed").Len() != 0 {
		t.Error("the log says that it failed")
	}
}

// TestWorkerWaitsForItsQueue deletes the queue of a running worker, and creates it again.
func TestWorkerWaitsForItsQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled := make(chan string, 10)
	f.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
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
