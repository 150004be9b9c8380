package amqp

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

func TestQueueArguments(t *testing.T) {
	t.Parallel()
	for version, limited := range map[string]bool{
		"3.10.8": false, "3.13.7": false, "4.0.0-rc.2": true, "4.1.4": true, "10.0": true, "": false,
	} {
		arguments := queueArguments(version)
		if limit, set := arguments["x-delivery-limit"]; set != limited || set && limit != int64(-1) {
			t.Errorf("version %q: x-delivery-limit is %v, set %v, want it set: %v", version, limit, set, limited)
		}
		if arguments["x-queue-type"] != "quorum" {
			t.Errorf("version %q: the queue is %v, want a quorum queue", version, arguments["x-queue-type"])
		}
	}
}

// TestForeignQueue uses a queue that somebody else declared, with arguments of their own.
func TestForeignQueue(t *testing.T) {
	t.Parallel()
	_, b, _ := throughProxy(t)
	queue := queueName(t, b)
	conn, err := amqp091.Dial(serverURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	classic := amqp091.Table{"x-queue-type": "classic"}
	if err := declare(conn, queue, classic); err != nil {
		t.Fatal(err)
	}

	if err := b.Declare(patient(t), queue); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("Declare: %v, want errs.FailedPrecondition", err)
	}
	sub := subscribe(t, b, queue, 1)
	publish(t, b, queue)
	for attempt, want := range []int{1, 2, 2} {
		d := receive(t, sub)
		if d.Attempt != want {
			t.Errorf("delivery %d of a classic queue has attempt %d, want %d", attempt+1, d.Attempt, want)
		}
		if err := d.Nack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	_, b, queue := throughProxy(t)
	sub := subscribe(t, b, queue, 1)
	session := b.publisher.session.Load()

	long := strings.Repeat("x", maxShort+1)
	with := func(key, value string) broker.Message {
		m := message()
		m.Attributes = map[string]string{key: value}
		return m
	}
	longID := message()
	longID.ID = long
	for name, err := range map[string]error{
		"queue name":         b.Publish(t.Context(), long, message()),
		"no queue name":      b.Publish(t.Context(), "", message()),
		"declared name":      b.Declare(t.Context(), long),
		"no declared name":   b.Declare(t.Context(), ""),
		"message id":         b.Publish(t.Context(), queue, longID),
		"attribute's key":    b.Publish(t.Context(), queue, with(long, "")),
		"attributes at once": b.Publish(t.Context(), queue, with("key", strings.Repeat("v", maxAttributes))),
		"many attributes":    b.Publish(t.Context(), queue, manyAttributes(maxAttributes/8+1)),
	} {
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, want errs.InvalidArgument", name, err)
		}
	}

	largest := with(long[1:], strings.Repeat("v", maxAttributes-maxShort-attributeCost))
	largest.ID = long[1:]
	if err := b.Publish(patient(t), queue, largest); err != nil {
		t.Fatalf("Publish at the limits: %v", err)
	}
	if d := receive(t, sub); d.ID != largest.ID || d.Attributes[long[1:]] != largest.Attributes[long[1:]] {
		t.Error("the message at the limits came otherwise")
	}
	if err := b.Publish(patient(t), queue, manyAttributes(maxAttributes/8)); err != nil {
		t.Errorf("Publish with many attributes: %v", err)
	}
	if b.publisher.session.Load() != session {
		t.Error("a message at the limits cost the connection")
	}
}

// manyAttributes gives a message n empty attributes, each with a key of two bytes.
func manyAttributes(n int) broker.Message {
	m := message()
	m.Attributes = map[string]string{}
	for i := range n {
		m.Attributes[string([]byte{byte(i >> 8), byte(i)})] = ""
	}
	return m
}

// TestThousandSubscriptions gives each of 1,000 subscriptions a message to hold.
func TestThousandSubscriptions(t *testing.T) {
	t.Parallel()
	const subscriptions = 1000
	_, b, queue := throughProxy(t)
	subs := make([]broker.Subscription, subscriptions)
	var wg sync.WaitGroup
	for i := range subs {
		wg.Go(func() {
			var err error
			if subs[i], err = b.Subscribe(patient(t), queue, 1); err != nil {
				t.Errorf("Subscribe: %v", err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for range subscriptions {
		wg.Go(func() { publish(t, b, queue) })
	}
	for _, sub := range subs {
		wg.Go(func() {
			if _, err := sub.Receive(patient(t)); err != nil {
				t.Errorf("Receive: %v", err)
			}
		})
	}
	wg.Wait()
	if err := b.Delete(patient(t), queue); err != nil {
		t.Fatal(err)
	}
	for _, sub := range subs {
		if _, err := sub.Receive(patient(t)); !errors.Is(err, broker.ErrNoQueue) {
			t.Fatalf("Receive: %v, want ErrNoQueue", err)
		}
	}
}

func message() broker.Message {
	return broker.Message{ID: uuid.Must(uuid.NewV7()).String(), Body: bytes.Repeat([]byte("body "), 10)}
}
