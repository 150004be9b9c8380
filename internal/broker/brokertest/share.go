package brokertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"plinth/internal/broker"
)

// testFair has two subscriptions with the same credit and handlers that take no time: neither may take nearly all.
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
	const credit, first = 100, "first"
	messages := 200
	if atOnce {
		messages = 1_000
	}
	queue := Declare(t, c, broker.Queue{})
	subs := []broker.Subscription{Subscribe(t, c, queue, credit), Subscribe(t, other, queue, credit)}
	ctx, cancel := context.WithCancel(Patient(t))
	defer cancel()
	var all tally
	var parts [2]int
	var receivers sync.WaitGroup
	for i, sub := range subs {
		receivers.Go(func() {
			for {
				d, err := sub.Receive(ctx)
				if err != nil {
					return
				}
				if err := d.Ack(context.WithoutCancel(ctx)); err != nil {
					t.Errorf("Ack: %v", err)
				}
				if string(d.Body) == first {
					continue
				}
				parts[i]++
				if all.add(d.ID) == messages {
					cancel()
				}
			}
		})
	}
	publishing := Patient(t) // The last message may be received before it is confirmed.
	// They may take a second to learn of each other, and longer on a busy machine.
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err := c.Publish(publishing, broker.Address{Queue: queue}, Message(first)); err != nil {
			t.Errorf("Publish: %v", err)
		}
	}
	batch := make([]broker.Publication, messages)
	for i := range batch {
		batch[i] = broker.Publication{To: broker.Address{Queue: queue}, Message: Message(fmt.Sprint(i))}
		if !atOnce {
			if err := c.Publish(publishing, batch[i].To, batch[i].Message); err != nil {
				t.Errorf("Publish: %v", err)
			}
		}
	}
	if atOnce {
		for _, err := range c.PublishBatch(publishing, batch) {
			if err != nil {
				t.Errorf("PublishBatch: %v", err)
			}
		}
	}
	receivers.Wait()
	all.wantOnce(t, messages)
	if min(parts[0], parts[1]) < messages/4 {
		t.Errorf("the subscriptions got %d and %d messages, want at least a quarter each", parts[0], parts[1])
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
	for _, sub := range subs {
		seen.add(Receive(t, sub).ID) // And holds it.
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
