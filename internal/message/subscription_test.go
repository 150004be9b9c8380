package message_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
)

const long = time.Minute

func TestDelivery(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	sub := f.subscribe(t, q, 10, long)
	before := time.Now().Add(-time.Millisecond)
	receipt, err := f.Publish(within(t), message.Publication{
		To: message.ToQueue(q), Body: []byte{0, 255}, Attributes: map[string]string{"schlüssel": "wert"},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := receipt.ID
	m := one(t, sub)
	if m.ID != id || string(m.Body) != "\x00\xff" || m.Attributes["schlüssel"] != "wert" || m.Attempt != 1 {
		t.Errorf("%+v", m)
	}
	if at := m.PublishedAt(); at.Before(before.Truncate(time.Millisecond)) || at.After(time.Now()) {
		t.Errorf("published at %v, now is %v", at, time.Now())
	}
	sub.Ack([]string{id, "unknown"})
	sub.Close()
	nothing(t, f.subscribe(t, q, 10, long))
	if at := (message.Message{ID: "no id"}).PublishedAt(); !at.IsZero() {
		t.Errorf("a time out of nothing: %v", at)
	}
}

func TestDeadlineThatIsMissed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	id := f.publish(t, q, "a")
	sub := f.subscribe(t, q, 10, 200*time.Millisecond)
	if m := one(t, sub); m.Attempt != 1 {
		t.Errorf("attempt %d", m.Attempt)
	}
	m := one(t, sub)
	if m.ID != id || m.Attempt != 2 {
		t.Errorf("%+v", m)
	}
	sub.Extend([]string{id}, long)
	nothing(t, sub)
	sub.Extend([]string{id}, 0) // Back to the subscription's own.
	if m := one(t, sub); m.Attempt != 3 {
		t.Errorf("attempt %d", m.Attempt)
	}
}

// after returns a pointer to a delay.
func after(d time.Duration) *time.Duration { return &d }

func TestNack(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second) // Relays.
	q := f.queueOf(t, "orders", message.Policy{MaxAttempts: 4, MinBackoff: 200 * time.Millisecond})
	id := f.publish(t, q, "a")
	sub := f.subscribe(t, q, 10, long)
	one(t, sub)
	sub.Nack([]message.Nack{{ID: id, Delay: after(0)}, {ID: "unknown"}, {ID: id}})
	if m := one(t, sub); m.ID != id || m.Attempt != 2 {
		t.Errorf("%+v", m)
	}
	const delay = 400 * time.Millisecond
	start := time.Now()
	sub.Nack([]message.Nack{{ID: id, Delay: after(delay), Reason: "later"}})
	sub.Ack([]string{id})          // Too late: it is given back.
	sub.Extend([]string{id}, long) // So is this.
	if m := one(t, sub); m.Attempt != 3 || time.Since(start) < delay {
		t.Errorf("attempt %d after %v", m.Attempt, time.Since(start))
	}
	// The third back-off is 800 ms less up to a half.
	start = time.Now()
	sub.Nack([]message.Nack{{ID: id, Reason: "later"}})
	if m := one(t, sub); m.Attempt != 4 || time.Since(start) < delay {
		t.Errorf("attempt %d after %v", m.Attempt, time.Since(start))
	}
	sub.Nack([]message.Nack{{ID: id, Delay: after(0), Reason: "never"}})
	if d := f.dead(t, q, 1)[0]; d.MessageID != id || d.Attempts != 4 || d.Reason != "never" {
		t.Errorf("%+v", d)
	}
	nothing(t, sub)
}

// TestNackMany nacks more messages than fit into one transaction. Their credit is free again.
func TestNackMany(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "orders", message.Policy{MaxAttempts: 1})
	const n = 250
	for range n {
		f.publish(t, q, "a")
	}
	sub := f.subscribe(t, q, n, long)
	var nacks []message.Nack
	for len(nacks) < n {
		for _, m := range next(t, sub) {
			nacks = append(nacks, message.Nack{ID: m.ID, Reason: m.ID})
		}
	}
	sub.Nack(nacks)
	for _, d := range f.dead(t, q, n) {
		if d.Reason != d.MessageID {
			t.Errorf("%s has the reason %s", d.MessageID, d.Reason)
		}
	}
	id := f.publish(t, q, "b")
	if m := one(t, sub); m.ID != id {
		t.Errorf("%+v", m)
	}
}

func TestDeliveredTooOften(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second) // Relays.
	q := f.queueOf(t, "orders", quick)
	sub := f.subscribe(t, q, 10, long)
	id := f.publish(t, q, "a")
	one(t, sub)
	sub.Nack([]message.Nack{{ID: id, Delay: after(0), Reason: "broken"}})
	one(t, sub)
	sub.Close()
	f.cut(t, q, 1)
	sub = f.subscribe(t, q, 10, long)
	nothing(t, sub)
	want := "delivered 3 times without being settled; before that: broken"
	if d := f.dead(t, q, 1)[0]; d.MessageID != id || d.Attempts != 3 || d.Reason != want {
		t.Errorf("%+v", d)
	}
	id = f.publish(t, q, "b")
	if m := one(t, sub); m.ID != id {
		t.Errorf("%+v", m)
	}
}

func TestCredit(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	for range 5 {
		f.publish(t, q, "a")
	}
	sub := f.subscribe(t, q, 2, long)
	var held []string
	for len(held) < 2 {
		for _, m := range next(t, sub) {
			held = append(held, m.ID)
		}
	}
	if len(held) != 2 {
		t.Fatalf("%d outstanding", len(held))
	}
	nothing(t, sub)
	sub.Ack(held[:1])
	one(t, sub)
	nothing(t, sub)
}

func TestCloseGivesBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	id := f.publish(t, q, "a")
	sub := f.subscribe(t, q, 10, long)
	one(t, sub)
	sub.Close()
	if m := one(t, f.subscribe(t, q, 10, long)); m.ID != id || m.Attempt != 2 {
		t.Errorf("%+v", m)
	}
}

// TestBatchFitsInAReply checks that batches fit into the default limit of gRPC clients.
func TestBatchFitsInAReply(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	for _, size := range []int{900 << 10, message.MaxBytes, 10, message.MaxBytes - 10, 600 << 10, 600 << 10} {
		f.publish(t, q, strings.Repeat("x", size))
	}
	sub := f.subscribe(t, q, 10, long)
	for seen := 0; seen < 6; {
		bytes := 0
		batch := next(t, sub)
		for _, m := range batch {
			bytes += len(m.Body)
		}
		if len(batch) > 1 && bytes > 1<<20 {
			t.Errorf("%d messages of %d bytes in a batch", len(batch), bytes)
		}
		seen += len(batch)
	}
}

func TestQueueDeletedWhileConsumed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	sub := f.subscribe(t, q, 10, long)
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Next(within(t)); !errs.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
}

// When the broker came back empty, the consumer that notices declares the queue again and continues.
func TestQueueThatTheBrokerLost(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "lost")
	sub := f.subscribe(t, q, 10, time.Minute)
	f.publish(t, q, "gone with it")
	one(t, sub)
	if err := f.broker.Delete(within(t), "default.lost"); err != nil {
		t.Fatal(err)
	}
	id := f.publish(t, q, "the first of the new one")
	if m := one(t, sub); m.ID != id {
		t.Errorf("%s came, want %s", m.ID, id)
	}
}

func TestSettled(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	first, second := f.publish(t, q, "a"), f.publish(t, q, "b")
	sub := f.subscribe(t, q, 10, long)
	for seen := 0; seen < 2; {
		seen += len(next(t, sub))
	}
	settled := make(chan struct{})
	go func() {
		sub.Settled(within(t))
		close(settled)
	}()
	sub.Ack([]string{first})
	select {
	case <-settled:
		t.Fatal("settled with a message outstanding")
	case <-time.After(100 * time.Millisecond):
	}
	sub.Nack([]message.Nack{{ID: second, Delay: after(long)}})
	select {
	case <-settled:
	case <-time.After(5 * time.Second):
		t.Fatal("not settled")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	sub.Settled(gone)
}
