package amqp

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
	"plinth/internal/errs"
)

// TestAbandonedPublications has more callers leave than the window holds. Publications that were written keep their places
// until they are confirmed, the others are not published, and then all places are free again.
func TestAbandonedPublications(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	session := b.publisher.session.Load()
	cure := p.hold()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var callers sync.WaitGroup
	for range 2 * window {
		callers.Go(func() {
			wantUnavailable(t, "Publish", b.Publish(ctx, broker.Address{Queue: queue}, message()))
		})
	}
	callers.Wait()
	cure()
	const more = 3 * window
	for range more {
		callers.Go(func() { publish(t, b, queue) })
	}
	callers.Wait()
	if b.publisher.session.Load() != session {
		t.Fatal("the connection was lost: the case shows nothing")
	}
	if n := len(session.places); n != window {
		t.Errorf("%d places of the window are free with nothing unconfirmed, want all %d", n, window)
	}
	brokertest.WantReady(t, b, queue, window+more)
}

// TestReturnsAreReported publishes one message to two queues at once, over and over: only the publication to the queue that
// exists may succeed.
func TestReturnsAreReported(t *testing.T) {
	t.Parallel()
	_, b, queue := throughProxy(t)
	missing := "brokertest-" + uuid.NewString()
	var callers sync.WaitGroup
	for range window {
		m := message()
		callers.Go(func() {
			if err := b.Publish(brokertest.Patient(t), broker.Address{Queue: queue}, m); err != nil {
				t.Errorf("Publish: %v", err)
			}
		})
		callers.Go(func() {
			err := b.Publish(brokertest.Patient(t), broker.Address{Queue: missing}, m)
			if !errors.Is(err, broker.ErrNoQueue) {
				t.Errorf("Publish to no queue: %v, want ErrNoQueue", err)
			}
		})
	}
	callers.Wait()
	brokertest.WantReady(t, b, queue, window)
	if b.publisher.session.Load().returned != [window]bool{} {
		t.Error("returns are kept after they were reported")
	}
}

// TestOnTheWire reads a message as any other client of RabbitMQ sees it.
func TestOnTheWire(t *testing.T) {
	t.Parallel()
	_, b, queue := throughProxy(t)
	topic := brokertest.TopicName()
	brokertest.Bind(t, b, queue, topic, "a.#")
	m := message()
	m.Attributes = map[string]string{"traceparent": "the publisher's"}
	m.Headers = map[string]string{"traceparent": "00-a-b-01", "tracestate": "a=1", "attempts": "2"}
	if err := b.Publish(t.Context(), broker.Address{Topic: topic, RoutingKey: "a.b"}, m); err != nil {
		t.Fatal(err)
	}
	conn, err := amqp091.Dial(serverURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var got amqp091.Delivery
	if err := onChannel(conn, func(channel *amqp091.Channel) (err error) {
		got, _, err = channel.Get(queue, true)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := amqp091.Table{"traceparent": "00-a-b-01", "tracestate": "a=1", "plinth-attempts": "2"}
	attributes, _ := got.Headers["attributes"].(amqp091.Table)
	delete(got.Headers, "attributes")
	delete(got.Headers, "x-delivery-count")
	if !maps.Equal(got.Headers, want) || attributes["traceparent"] != "the publisher's" {
		t.Errorf("headers are %v with the attributes %v", got.Headers, attributes)
	}
	if wantKey := strings.ReplaceAll(topic, ".", "/") + ".a.b"; got.Exchange != "plinth.topics" || got.RoutingKey != wantKey {
		t.Errorf("it went by %q and %q, want plinth.topics and %q", got.Exchange, got.RoutingKey, wantKey)
	}
	if got.MessageId != m.ID || got.DeliveryMode != amqp091.Persistent {
		t.Errorf("its id is %q and its mode %d", got.MessageId, got.DeliveryMode)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	_, b, queue := throughProxy(t)
	sub := brokertest.Subscribe(t, b, queue, 1)
	session := b.publisher.session.Load()
	long := strings.Repeat("x", maxShort+1)
	to := broker.Address{Queue: queue}
	for name, p := range map[string]broker.Publication{
		"queue name":         {To: broker.Address{Queue: long}},
		"no address":         {},
		"topic and key":      {To: broker.Address{Topic: long[:100], RoutingKey: long[:155]}},
		"slash in a topic":   {To: broker.Address{Topic: "a/b"}},
		"pattern as a topic": {To: broker.Address{Topic: "a.*"}},
		"message id":         {To: to, Message: broker.Message{ID: long}},
		"attribute's key":    {To: to, Message: broker.Message{Attributes: map[string]string{long: ""}}},
		"attributes at once": {To: to, Message: broker.Message{Attributes: map[string]string{"": strings.Repeat("v", maxAttributes)}}},
		"many attributes":    {To: to, Message: broker.Message{Attributes: fields(maxFields + 1)}},
		"header's key":       {To: to, Message: broker.Message{Headers: map[string]string{long[:maxShort-len(headerPrefix)+1]: ""}}},
		"headers at once":    {To: to, Message: broker.Message{Headers: map[string]string{"key": strings.Repeat("v", maxHeaders)}}},
	} {
		if err := b.Publish(t.Context(), p.To, p.Message); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("Publish, %s: %v, want errs.InvalidArgument", name, err)
		}
	}
	for name, err := range map[string]error{
		"Declare, long name": b.Declare(t.Context(), broker.Queue{Name: long}),
		"Declare, no name":   b.Declare(t.Context(), broker.Queue{}),
		"Bind, no topic":     b.Bind(t.Context(), queue, broker.Binding{Pattern: "#"}),
		"Bind, long pattern": b.Bind(t.Context(), queue, broker.Binding{Topic: "a", Pattern: long}),
		"Unbind, no topic":   b.Unbind(t.Context(), queue, broker.Binding{Pattern: "#"}),
	} {
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, want errs.InvalidArgument", name, err)
		}
	}

	id, key := long[1:], long[:maxShort-len(headerPrefix)]
	for name, largest := range map[string]broker.Message{
		"few": {
			ID:         id,
			Attributes: map[string]string{id: strings.Repeat("v", maxAttributes-len(id)-fieldCost)},
			Headers:    map[string]string{key: strings.Repeat("v", maxHeaders-maxShort-fieldCost)},
		},
		"many": {ID: id, Attributes: fields(maxFields), Headers: fields(maxHeaders / 15)},
	} {
		if err := b.Publish(brokertest.Patient(t), to, largest); err != nil {
			t.Fatalf("Publish at the limits, %s fields: %v", name, err)
		}
		d := brokertest.Receive(t, sub)
		if d.ID != id || !maps.Equal(d.Attributes, largest.Attributes) || !maps.Equal(d.Headers, largest.Headers) {
			t.Errorf("the message at the limits came otherwise, with %s fields", name)
		}
		brokertest.Ack(t, d)
	}
	longest := broker.Binding{Topic: long[:100], Pattern: long[:154]}
	brokertest.Bind(t, b, queue, longest.Topic, longest.Pattern)
	if err := b.Publish(t.Context(), broker.Address{Topic: longest.Topic, RoutingKey: longest.Pattern}, message()); err != nil {
		t.Errorf("Publish with the longest routing key: %v", err)
	}
	if b.publisher.session.Load() != session {
		t.Error("a message at the limits cost the connection")
	}
}

// fields returns n empty attributes or headers, each with a key of two bytes.
func fields(n int) map[string]string {
	table := map[string]string{}
	for i := range n {
		table[string([]byte{byte(i >> 8), byte(i)})] = ""
	}
	return table
}
