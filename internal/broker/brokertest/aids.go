package brokertest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

const (
	// Patience bounds everything that must happen. If it does not happen by then, a case fails and never hangs.
	Patience = 20 * time.Second
	// quiet is how long a case watches to see that something does not happen.
	quiet = 300 * time.Millisecond
)

// Patient returns a context that ends with the test, or after Patience.
func Patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(cancel)
	return ctx
}

func contextFor(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// Eventually polls until so returns true.
func Eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	if !poll(t, so) {
		t.Fatalf("not in %v: %s", Patience, what)
	}
}

// Serve runs a broker until the test ends or stop is called. stop waits for the end of Run.
func Serve(t testing.TB, b broker.Broker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- b.Run(ctx)
		close(ended)
	}()
	stop = func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(Patience):
			t.Error("Run did not end with its context")
		}
	}
	t.Cleanup(stop)
	return stop
}

// QueueName returns a unique name; the queue of that name is deleted when the test ends.
func QueueName(t testing.TB, b broker.Broker) string {
	t.Helper()
	name := "brokertest." + uuid.NewString()
	t.Cleanup(func() {
		if err := insist(func(ctx context.Context) error { return b.Delete(ctx, name) }); err != nil {
			t.Errorf("Delete in cleanup: %v", err)
		}
	})
	return name
}

// Declare declares a queue, with a unique name if it has none, and returns the name.
func Declare(t testing.TB, b broker.Broker, queue broker.Queue) string {
	t.Helper()
	if queue.Name == "" {
		queue.Name = QueueName(t, b)
	}
	if err := insist(func(ctx context.Context) error { return b.Declare(ctx, queue) }); err != nil {
		t.Fatalf("Declare: %v", err)
	}
	return queue.Name
}

// insist repeats the call while the broker is unavailable, which is not what the case is about: a busy disk may take longer
// than a call may.
func insist(call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for {
		err := call(ctx)
		if !errs.Is(err, errs.Unavailable) || ctx.Err() != nil {
			return err
		}
		<-time.After(20 * time.Millisecond)
	}
}

// TopicName returns a unique name.
func TopicName() string { return "brokertest." + uuid.NewString() }

// Bind binds a queue to a topic.
func Bind(t testing.TB, b broker.Broker, queue, topic, pattern string) {
	t.Helper()
	binding := broker.Binding{Topic: topic, Pattern: pattern}
	if err := insist(func(ctx context.Context) error { return b.Bind(ctx, queue, binding) }); err != nil {
		t.Fatalf("Bind: %v", err)
	}
}

// Message returns a message with an id of its own.
func Message(body string) broker.Message {
	return broker.Message{ID: uuid.Must(uuid.NewV7()).String(), Body: []byte(body)}
}

// Publish publishes messages to a queue, one after the other.
func Publish(t testing.TB, b broker.Broker, queue string, bodies ...string) []broker.Message {
	t.Helper()
	return PublishTo(t, b, broker.Address{Queue: queue}, bodies...)
}

// PublishTo publishes messages to an address, one after the other.
func PublishTo(t testing.TB, b broker.Broker, to broker.Address, bodies ...string) []broker.Message {
	t.Helper()
	var sent []broker.Message
	for _, body := range bodies {
		m := Message(body)
		if err := b.Publish(Patient(t), to, m); err != nil {
			t.Fatalf("Publish: %v", err)
		}
		sent = append(sent, m)
	}
	return sent
}

// Subscribe subscribes until the test ends.
func Subscribe(t testing.TB, b broker.Broker, queue string, credit int) broker.Subscription {
	t.Helper()
	sub, err := b.Subscribe(Patient(t), queue, credit)
	if err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	t.Cleanup(sub.Close)
	return sub
}

// Receive expects a delivery.
func Receive(t testing.TB, sub broker.Subscription) broker.Delivery {
	t.Helper()
	d, err := sub.Receive(Patient(t))
	if err != nil {
		t.Fatalf("Receive: %v", err)
	}
	return d
}

// ReceiveNothing expects that no delivery comes while it watches.
func ReceiveNothing(t testing.TB, sub broker.Subscription) {
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

// Ack acknowledges a delivery and expects that to succeed.
func Ack(t testing.TB, d broker.Delivery) {
	t.Helper()
	if err := d.Ack(Patient(t)); err != nil {
		t.Fatalf("Ack: %v", err)
	}
}

// Nack returns a delivery to the queue and expects that to succeed.
func Nack(t testing.TB, d broker.Delivery) {
	t.Helper()
	if err := d.Nack(Patient(t)); err != nil {
		t.Fatalf("Nack: %v", err)
	}
}

// WantReady waits until that many messages wait in the queue, since brokers may count a moment late.
func WantReady(t testing.TB, b broker.Broker, queue string, want int64) {
	t.Helper()
	var last int64
	ok := poll(t, func() bool {
		n, err := b.Ready(Patient(t), queue)
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

// poll calls yes until it returns true, and reports whether it did within Patience.
func poll(t testing.TB, yes func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(Patience)
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

// wantMessage expects a message exactly as it was published.
func wantMessage(t testing.TB, got, want broker.Message) {
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
	if !maps.Equal(got.Headers, want.Headers) {
		t.Errorf("headers are %q, want %q", got.Headers, want.Headers)
	}
}

// Take subscribes, handles the messages one after another until the test ends, and counts them.
func Take(t testing.TB, b broker.Broker, queue string, credit int, handling time.Duration) *atomic.Int64 {
	t.Helper()
	sub := Subscribe(t, b, queue, credit)
	var taken atomic.Int64
	var taking sync.WaitGroup
	taking.Go(func() {
		for {
			d, err := sub.Receive(context.Background())
			if err != nil {
				return // It is closed.
			}
			time.Sleep(handling)
			if err := d.Ack(context.Background()); err != nil {
				t.Errorf("Ack: %v", err)
			}
			taken.Add(1)
		}
	})
	t.Cleanup(func() {
		sub.Close()
		taking.Wait()
	})
	return &taken
}
