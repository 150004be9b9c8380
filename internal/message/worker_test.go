package message_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
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

func TestWorkerRetries(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", message.Policy{MaxAttempts: 3, MinBackoff: 400 * time.Millisecond})
	type try struct {
		attempt int
		at      time.Time
	}
	tries := make(chan try, 10)
	f.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		tries <- try{m.Attempt, time.Now()}
		switch m.Attempt {
		case 1:
			return errors.New("not yet")
		case 2:
			panic("not yet either")
		}
		return nil
	}))
	id := f.publish(t, q, "hello")
	first, second, third := <-tries, <-tries, <-tries
	if first.attempt != 1 || second.attempt != 2 || third.attempt != 3 {
		t.Errorf("attempts %d %d %d", first.attempt, second.attempt, third.attempt)
	}
	// The first back-off is 400 ms less up to a half, the second twice that.
	if d := second.at.Sub(first.at); d < 200*time.Millisecond {
		t.Errorf("tried again after %v", d)
	}
	if d := third.at.Sub(second.at); d < 400*time.Millisecond {
		t.Errorf("tried a third time after %v", d)
	}
	if line := f.line(t, "message handled"); line["id"] != id || line["attempt"] != int64(3) {
		t.Errorf("%v", line)
	}
	if f.logs.FilterMessage("message failed").Len() != 2 {
		t.Error("failures are not in the log")
	}
	if line := f.line(t, "handler panicked"); !strings.Contains(line["stack"].(string), "worker_test.go") {
		t.Errorf("no stack in %v", line)
	}
	f.gone(t, q)
	f.dead(t, q, 0)
}

// TestWorkerGivesUp has a message fail to its last attempt.
func TestWorkerGivesUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", message.Policy{MaxAttempts: 4, MinBackoff: 20 * time.Millisecond, MaxBackoff: 50 * time.Millisecond})
	var tries atomic.Int32
	long := "never: " + strings.Repeat("ü", 1000)
	f.worker(t, time.Second, message.HandleBytes("tasks", func(context.Context, message.Message) error {
		if tries.Add(1) == 4 {
			panic(long)
		}
		return errors.New("not yet")
	}))
	began := time.Now()
	receipt, err := f.Publish(within(t), message.Publication{
		To: message.ToQueue(q), Body: []byte("body\x00"), Attributes: map[string]string{"k": "v"},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := f.dead(t, q, 1)[0]
	if d.MessageID != receipt.ID || d.Attempts != 4 || string(d.Body) != "body\x00" || d.Attributes["k"] != "v" {
		t.Errorf("%+v", d)
	}
	if d.FirstFailedAt.Before(began) || !d.LastFailedAt.After(d.FirstFailedAt) || d.LastFailedAt.After(time.Now()) {
		t.Errorf("failed from %v to %v", d.FirstFailedAt, d.LastFailedAt)
	}
	if !strings.HasPrefix(d.Reason, "panic: never: ü") || len(d.Reason) > 1024 || len(d.Reason) < 1020 || !utf8.ValidString(d.Reason) {
		t.Errorf("reason of %d bytes: %s", len(d.Reason), d.Reason)
	}
	for i, most := range []time.Duration{20, 40, 50} {
		line := f.logs.FilterMessage("message failed").All()[i].ContextMap()
		if wait := line["retry_in_ms"].(time.Duration); wait < most*time.Millisecond/2 || wait > most*time.Millisecond {
			t.Errorf("back-off %d is %v", i+1, wait)
		}
	}
	if tries.Load() != 4 {
		t.Errorf("%d tries", tries.Load())
	}
	f.gone(t, q)
}

func TestWorkerKnowsWhatIsPermanent(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", quick)
	var tries atomic.Int32
	f.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		tries.Add(1)
		if string(m.Body) == "kind" {
			return fmt.Errorf("order 7: %w", errs.New(errs.NotFound, "no such order"))
		}
		return errs.Permanent(errors.New("no use"))
	}))
	f.publish(t, q, "kind")
	f.publish(t, q, "marked")
	for _, d := range f.dead(t, q, 2) {
		if d.Attempts != 1 || d.Reason != map[string]string{"kind": "order 7: no such order", "marked": "no use"}[string(d.Body)] {
			t.Errorf("%+v", d)
		}
	}
	if tries.Load() != 2 {
		t.Errorf("%d tries", tries.Load())
	}
}

// TestFailedMessageIsOutOfTheWay has one place for two messages, of which the first fails.
func TestFailedMessageIsOutOfTheWay(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", message.Policy{MinBackoff: time.Hour, MaxBackoff: time.Hour})
	handled := make(chan string, 10)
	f.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		if string(m.Body) == "poison" {
			return errors.New("never")
		}
		handled <- string(m.Body)
		return nil
	}))
	for range 5 { // More than the credit.
		f.publish(t, q, "poison")
	}
	f.publish(t, q, "good")
	select {
	case <-handled:
	case <-time.After(5 * time.Second):
		t.Fatal("the good message waits behind the bad ones")
	}
	if stats, err := f.GetQueue(within(t), q); err != nil || stats.Stats.Waiting != 5 || stats.Stats.Depth != 0 {
		t.Errorf("%+v %v", stats.Stats, err)
	}
}

// cut ends deliveries of the only message of a queue without settling them, as a process that dies does.
func (f fixture) cut(t *testing.T, q message.QueueName, times int) {
	t.Helper()
	for range times {
		sub, err := f.broker.Subscribe(within(t), "default."+q.String(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sub.Receive(within(t)); err != nil {
			t.Fatal(err)
		}
		sub.Close()
	}
}

// TestDeliveriesCutShort tests messages whose handler ends the process.
func TestDeliveriesCutShort(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", quick)
	handled := make(chan message.Message, 10)
	once, thrice := f.publish(t, q, "once"), ""
	f.cut(t, q, 1)
	handler := message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		handled <- m
		return nil
	})
	stop := f.worker(t, time.Second, handler)
	if m := <-handled; m.ID != once || m.Attempt != 2 {
		t.Errorf("%+v", m)
	}
	if line := f.line(t, "message came again"); line["retry_in_ms"].(time.Duration) < 10*time.Millisecond {
		t.Errorf("it came again at once: %v", line)
	}
	stop()

	thrice = f.publish(t, q, "thrice")
	f.cut(t, q, 3)
	f.worker(t, time.Second, handler)
	d := f.dead(t, q, 1)[0]
	if d.MessageID != thrice || d.Attempts != 3 || d.Reason != "delivered 3 times without being settled" {
		t.Errorf("%+v", d)
	}
	f.gone(t, q)
	if len(handled) > 0 {
		t.Errorf("%+v was handled", <-handled)
	}
}

// TestFailureInAQueueThatIsGone deletes the queue under a handler that then fails.
func TestFailureInAQueueThatIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "tasks", quick)
	f.worker(t, time.Second, message.HandleBytes("tasks", func(ctx context.Context, _ message.Message) error {
		if err := f.DeleteQueue(ctx, q); err != nil {
			t.Error(err)
		}
		return errors.New("not yet")
	}))
	f.publish(t, q, "hello")
	f.line(t, "message failed")
	f.queueOf(t, "tasks", quick)
	f.dead(t, q, 0)
	if stats, err := f.GetQueue(within(t), q); err != nil || stats.Stats.Waiting != 0 {
		t.Errorf("%+v %v", stats.Stats, err)
	}
	if n := f.logs.FilterMessage("failed message cannot be moved, trying again").Len(); n != 0 {
		t.Errorf("moving the message was tried %d times", n+1)
	}
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
	// It takes no more.
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
