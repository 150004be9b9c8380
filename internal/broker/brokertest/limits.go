package brokertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

func testDeclareOtherwise(t *testing.T, open Open) {
	c := start(t, open)
	plain := broker.Queue{Name: Declare(t, c, broker.Queue{})}
	limited := broker.Queue{MessageTTL: time.Minute, MaxLength: 10}
	limited.Name = Declare(t, c, limited)
	for what, otherwise := range map[string]broker.Queue{
		"a TTL":           {Name: plain.Name, MessageTTL: time.Minute},
		"a length":        {Name: plain.Name, MaxLength: 10},
		"another TTL":     {Name: limited.Name, MessageTTL: time.Minute + time.Millisecond, MaxLength: 10},
		"another length":  {Name: limited.Name, MessageTTL: time.Minute, MaxLength: 11},
		"no TTL":          {Name: limited.Name, MaxLength: 10},
		"no length":       {Name: limited.Name, MessageTTL: time.Minute},
		"no limit at all": {Name: limited.Name},
	} {
		if err := c.Declare(Patient(t), otherwise); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("Declare with %s: %v, want errs.FailedPrecondition", what, err)
		}
	}
	for _, queue := range []broker.Queue{plain, limited} {
		Declare(t, c, queue)
		Publish(t, c, queue.Name, "it lives on")
		Receive(t, Subscribe(t, c, queue.Name, 1))
	}
}

// testTTL publishes a message later, at a time that another queue with a shorter TTL determines.
func testTTL(t *testing.T, open Open) {
	const ttl = 4 * time.Second
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{MessageTTL: ttl})
	clock := Declare(t, c, broker.Queue{MessageTTL: ttl / 2})
	forever := Declare(t, c, broker.Queue{})
	began := time.Now()
	Publish(t, c, forever, "kept")
	Publish(t, c, queue, "old")
	Publish(t, c, clock, "tick")
	WantReady(t, c, clock, 0)
	if took := time.Since(began); took < ttl/2 {
		t.Errorf("dropped after %v, want no sooner than %v", took, ttl/2)
	}
	WantReady(t, c, queue, 1)
	Publish(t, c, queue, "young")
	WantReady(t, c, queue, 2)
	WantReady(t, c, queue, 1)
	if took := time.Since(began); took < ttl {
		t.Errorf("dropped after %v, want no sooner than %v", took, ttl)
	}
	sub := Subscribe(t, c, queue, 2)
	if d := Receive(t, sub); string(d.Body) != "young" {
		t.Errorf("received %q, want the younger message", d.Body)
	}
	ReceiveNothing(t, sub)
	ReceiveNothing(t, Subscribe(t, c, clock, 1))
	WantReady(t, c, forever, 1)
}

func testTTLOutstanding(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{MessageTTL: time.Second})
	sub := Subscribe(t, c, queue, 2)
	Publish(t, c, queue, "acked", "nacked", "waiting")
	acked, nacked := Receive(t, sub), Receive(t, sub)
	WantReady(t, c, queue, 1)
	WantReady(t, c, queue, 0) // The third was dropped, and the first two are as old.

	Ack(t, acked)
	Nack(t, nacked) // It waits again, for longer than it may.
	ReceiveNothing(t, sub)
	WantReady(t, c, queue, 0)
	Publish(t, c, queue, "next")
	if d := Receive(t, sub); string(d.Body) != "next" {
		t.Errorf("received %q, want what was published next", d.Body)
	}
}

// overshoot is by how many messages one publisher may exceed a MaxLength.
const overshoot = 5

// fill publishes to an address until it is full, and returns the ids of the stored messages.
func fill(t *testing.T, c client, to broker.Address, atMost int) []string {
	t.Helper()
	var kept []string
	for len(kept) <= atMost {
		m := Message("fills")
		switch err := c.Publish(Patient(t), to, m); {
		case err == nil:
			kept = append(kept, m.ID)
		case errors.Is(err, broker.ErrFull):
			return kept
		default:
			t.Fatalf("Publish: %v, want nil or ErrFull", err)
		}
	}
	t.Fatalf("the queue took %d messages and is not full", len(kept))
	return nil
}

func testMaxLength(t *testing.T, open Open) {
	const length = 10
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{MaxLength: length})
	kept := fill(t, c, broker.Address{Queue: queue}, length+overshoot)
	if len(kept) < length {
		t.Errorf("the queue took %d messages, want %d", len(kept), length)
	}
	WantReady(t, c, queue, int64(len(kept)))
	if err := c.Publish(Patient(t), broker.Address{Queue: queue}, Message("refused")); !errors.Is(err, broker.ErrFull) {
		t.Errorf("Publish: %v, want ErrFull", err)
	}

	// What is outstanding does not wait.
	sub := Subscribe(t, c, queue, len(kept)+1)
	var held []broker.Delivery
	for _, id := range kept {
		d := Receive(t, sub)
		if d.ID != id {
			t.Errorf("received %s, want %s: what was refused is not kept", d.ID, id)
		}
		held = append(held, d)
	}
	wantRoom(t, c, queue)
	Receive(t, sub)
	for _, d := range held {
		Ack(t, d)
	}
	wantRoom(t, c, queue)
}

// wantRoom expects a queue that was full to accept messages again soon.
func wantRoom(t *testing.T, c client, queue string) {
	t.Helper()
	Eventually(t, "there is room", func() bool {
		err := c.Publish(Patient(t), broker.Address{Queue: queue}, Message("there is room"))
		if err != nil && !errors.Is(err, broker.ErrFull) {
			t.Fatalf("Publish: %v, want nil or ErrFull", err)
		}
		return err == nil
	})
}

func testMaxLengthOfTopic(t *testing.T, open Open) {
	c := start(t, open)
	topic := TopicName()
	small, large := Declare(t, c, broker.Queue{MaxLength: 1}), Declare(t, c, broker.Queue{})
	Bind(t, c, small, topic, "#")
	Bind(t, c, large, topic, "#")
	kept := fill(t, c, broker.Address{Topic: topic}, 1+overshoot)
	WantReady(t, c, small, int64(len(kept)))
	// The last one was refused by the small queue alone.
	WantReady(t, c, large, int64(len(kept)+1))
	if err := c.Publish(Patient(t), broker.Address{Queue: large}, Message("to the other")); err != nil {
		t.Errorf("Publish to the other queue: %v", err)
	}
}

func testPurge(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	purge := func(want int64) {
		t.Helper()
		n, err := c.Purge(Patient(t), queue)
		if err != nil || n != want {
			t.Errorf("Purge: %d and error %v, want %d", n, err, want)
		}
	}
	purge(0)
	Publish(t, c, queue, "outstanding", "one", "two", "three")
	sub := Subscribe(t, c, queue, 1)
	held := Receive(t, sub)
	WantReady(t, c, queue, 3)
	purge(3)
	WantReady(t, c, queue, 0)

	Nack(t, held)
	again := Receive(t, sub)
	wantMessage(t, again.Message, held.Message)
	Ack(t, again)
	ReceiveNothing(t, sub)
	Publish(t, c, queue, "after")
	if d := Receive(t, sub); string(d.Body) != "after" {
		t.Errorf("received %q, want what was published after Purge", d.Body)
	}
	if _, err := c.Purge(Patient(t), QueueName(t, c)); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Purge of an unknown queue: %v, want ErrNoQueue", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Purge(cancelled, queue); !errors.Is(err, context.Canceled) {
		t.Errorf("Purge: %v, want the context's error", err)
	}
}
