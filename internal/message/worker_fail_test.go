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

	"plinth/internal/errs"
	"plinth/internal/message"
)

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
	if line := f.line(t, "handler panicked"); !strings.Contains(line["stack"].(string), "worker_fail_test.go") {
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

// TestFailedMessageIsOutOfTheWay handles two messages one at a time; the first one fails.
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
	for range 5 { // More messages than the credit.
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

// TestFailureInAQueueThatIsGone deletes a queue while its handler runs; then the handler fails.
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
