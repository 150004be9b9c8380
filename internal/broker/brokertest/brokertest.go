// Package brokertest is the contract of package broker in executable form. Every adapter calls Run from its own tests
// and passes it whole.
package brokertest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/broker"
)

const (
	// patience bounds everything that must happen: a case fails, and never hangs, when it has not.
	patience = 20 * time.Second
	// quiet is how long a case watches that something does not happen.
	quiet = 300 * time.Millisecond
)

// Open makes a client of the one server that the suite runs on, and does not run it: the suite does. cut breaks every
// connection between this client and the server, those of other clients left alone, and returns when they are broken;
// the server lives on and takes the client's next connections. Open is called many times, from parallel tests.
type Open func(t *testing.T) (b broker.Broker, cut func())

// Run runs the suite, each case in parallel with the others and on clients and queues of its own.
func Run(t *testing.T, open Open) {
	cases := []struct {
		name string
		run  func(t *testing.T, open Open)
	}{
		{"a message arrives as it was published", testRoundTrip},
		{"an unknown queue is told and keeps nothing", testUnknownQueue},
		{"declaring again keeps the messages", testDeclareTwice},
		{"deleting drops messages and ends subscriptions", testDelete},
		{"Ready counts what waits and not what is outstanding", testReady},
		{"credit bounds what is outstanding", testCredit},
		{"a nack redelivers with the next attempt", testNack},
		{"a second settlement has no effect", testSettleTwice},
		{"Close gives everything back at once", testClose},
		{"subscriptions share a queue", testShare},
		{"many publishers lose and double nothing", testManyPublishers},
		{"a cancelled context ends Publish, Subscribe and Receive", testCancel},
		{"a cut loses nothing that was confirmed", testCutUnderLoad},
		{"a delivery from before a cut is stale", testStaleDelivery},
		{"Ping recovers after a cut", testPingAfterCut},
		{"the end of Run ends everything", testRunEnds},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, open)
		})
	}
}

// client is a running broker.
type client struct {
	broker.Broker
	cut  func()
	stop func() // ends Run and waits for it
}

func start(t *testing.T, open Open) client {
	t.Helper()
	b, cut := open(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- b.Run(ctx)
		close(ended)
	}()
	stop := func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not end with its context")
		}
	}
	t.Cleanup(stop)
	return client{Broker: b, cut: cut, stop: stop}
}

// queueName makes a name that nobody else uses; the queue of that name is deleted when the test is over.
func queueName(t *testing.T, c client) string {
	t.Helper()
	name := "brokertest-" + uuid.NewString()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Delete(ctx, name); err != nil {
			t.Errorf("Delete in cleanup: %v", err)
		}
	})
	return name
}

func declare(t *testing.T, c client) string {
	t.Helper()
	name := queueName(t, c)
	if err := c.Declare(patient(t), name); err != nil {
		t.Fatalf("Declare: %v", err)
	}
	return name
}

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func message(body string) broker.Message {
	return broker.Message{ID: uuid.Must(uuid.NewV7()).String(), Body: []byte(body)}
}

func publish(t *testing.T, c client, queue string, bodies ...string) []broker.Message {
	t.Helper()
	var sent []broker.Message
	for _, body := range bodies {
		m := message(body)
		if err := c.Publish(patient(t), queue, m); err != nil {
			t.Fatalf("Publish: %v", err)
		}
		sent = append(sent, m)
	}
	return sent
}

func subscribe(t *testing.T, c client, queue string, credit int) broker.Subscription {
	t.Helper()
	sub, err := c.Subscribe(patient(t), queue, credit)
	if err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	t.Cleanup(sub.Close)
	return sub
}

func receive(t *testing.T, sub broker.Subscription) broker.Delivery {
	t.Helper()
	d, err := sub.Receive(patient(t))
	if err != nil {
		t.Fatalf("Receive: %v", err)
	}
	return d
}

func receiveNothing(t *testing.T, sub broker.Subscription) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), quiet)
	defer cancel()
	d, err := sub.Receive(ctx)
	if err == nil {
		t.Fatalf("Receive gave message %s, attempt %d, where nothing should come", d.ID, d.Attempt)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Receive: %v, want the context's error", err)
	}
}

func ack(t *testing.T, d broker.Delivery) {
	t.Helper()
	if err := d.Ack(patient(t)); err != nil {
		t.Fatalf("Ack: %v", err)
	}
}

func nack(t *testing.T, d broker.Delivery) {
	t.Helper()
	if err := d.Nack(patient(t)); err != nil {
		t.Fatalf("Nack: %v", err)
	}
}

// wantReady waits until so many messages wait in the queue: brokers may count a moment late.
func wantReady(t *testing.T, c client, queue string, want int64) {
	t.Helper()
	var last int64
	ok := poll(t, func() bool {
		n, err := c.Ready(patient(t), queue)
		if err != nil {
			t.Fatalf("Ready: %v", err)
		}
		last = n
		return n == want
	})
	if !ok {
		t.Fatalf("Ready is %d, want %d", last, want)
	}
}

// poll asks until it hears yes, and says whether it did within the suite's patience.
func poll(t *testing.T, yes func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !yes() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		case <-t.Context().Done():
			return false
		}
	}
	return true
}

func wantMessage(t *testing.T, got, want broker.Message) {
	t.Helper()
	if got.ID != want.ID {
		t.Errorf("id is %q, want %q", got.ID, want.ID)
	}
	if !bytes.Equal(got.Body, want.Body) {
		t.Errorf("body of %d bytes differs from the %d that were published", len(got.Body), len(want.Body))
	}
	if !maps.Equal(got.Attributes, want.Attributes) {
		t.Errorf("attributes are %q, want %q", got.Attributes, want.Attributes)
	}
}
