package brokertest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/broker"
)

// testFair has two subscriptions with the same credit. Neither may take nearly all messages, whether they come one by one
// and are handled at once, or many wait and are handled one by one.
func testFair(t *testing.T, open Open) {
	for _, where := range []string{"of one client", "of two clients"} {
		for _, how := range []string{"one after the other", "at once"} {
			t.Run(where+" "+how, func(t *testing.T) {
				t.Parallel()
				c := start(t, open)
				other := c
				if where == "of two clients" {
					other = start(t, open)
				}
				fair(t, c, other, how == "at once")
			})
		}
	}
}

func fair(t *testing.T, c, other client, atOnce bool) {
	messages, size, handling := 200, 1, time.Duration(0)
	if atOnce {
		messages, size, handling = 1_000, 1_000, time.Millisecond
	}
	queue := Declare(t, c, broker.Queue{})
	parts := []*atomic.Int64{Take(t, c, queue, 100, handling), Take(t, other, queue, 100, handling)}
	publish := func(n int) {
		t.Helper()
		batch := make([]broker.Publication, n)
		for i := range batch {
			batch[i] = broker.Publication{To: broker.Address{Queue: queue}, Message: Message("a part")}
		}
		for _, err := range c.PublishBatch(Patient(t), batch) {
			if err != nil {
				t.Fatalf("PublishBatch: %v", err)
			}
		}
	}
	extra := int64(0) // until both have begun
	Eventually(t, "both get messages", func() bool {
		publish(1)
		extra++
		return parts[0].Load() > 0 && parts[1].Load() > 0
	})
	all := func() int64 { return parts[0].Load() + parts[1].Load() }
	Eventually(t, "all that came first is handled", func() bool { return all() >= extra })
	before := []int64{parts[0].Load(), parts[1].Load()}
	for range messages / size {
		publish(size)
	}
	Eventually(t, "all is handled", func() bool { return all() >= extra+int64(messages) })
	one, two := parts[0].Load()-before[0], parts[1].Load()-before[1]
	if min(one, two) < int64(messages)/10 {
		t.Errorf("the subscriptions got %d and %d messages, want at least a tenth each", one, two)
	}
}

func testManySubscriptions(t *testing.T, open Open) {
	const subscriptions = 100
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	subs := make([]broker.Subscription, subscriptions)
	for i := range subs {
		subs[i] = Subscribe(t, c, queue, 1)
	}
	batch := make([]broker.Publication, subscriptions)
	for i := range batch {
		batch[i] = broker.Publication{To: broker.Address{Queue: queue}, Message: Message(fmt.Sprint(i))}
	}
	for _, err := range c.PublishBatch(Patient(t), batch) {
		if err != nil {
			t.Fatalf("PublishBatch: %v", err)
		}
	}
	var seen tally
	all := Patient(t)
	for _, sub := range subs {
		d, err := sub.Receive(all)
		if err != nil {
			t.Fatalf("Receive: %v", err)
		}
		seen.add(d.ID) // It holds the message.
	}
	seen.wantOnce(t, subscriptions)
}

func testOrder(t *testing.T, open Open) {
	const messages = 200
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sub := Subscribe(t, c, queue, 10)
	bodies := make([]string, messages)
	for i := range bodies {
		bodies[i] = fmt.Sprint(i)
	}
	Publish(t, c, queue, bodies...)
	for _, want := range bodies {
		d := Receive(t, sub)
		if string(d.Body) != want {
			t.Fatalf("received message %s, want %s next", d.Body, want)
		}
		Ack(t, d)
	}
}
