package brokertest

import (
	"errors"
	"slices"
	"testing"

	"plinth/internal/broker"
)

func testPatterns(t *testing.T, open Open) {
	keys := []string{"", "a", "b", "c", "a.b", "a.c", "a.b.c", "a.b.b.c", "a_b", "axb", "v+", "vv"}
	patterns := map[string][]string{
		"#":     keys,
		"#.#":   keys,
		"*.#":   keys[1:],
		"*":     {"a", "b", "c", "a_b", "axb", "v+", "vv"},
		"a":     {"a"},
		"a.*":   {"a.b", "a.c"},
		"a.#":   {"a", "a.b", "a.c", "a.b.c", "a.b.b.c"},
		"#.c":   {"c", "a.c", "a.b.c", "a.b.b.c"},
		"a.*.c": {"a.b.c"},
		"a.#.c": {"a.c", "a.b.c", "a.b.b.c"},
		"a_b":   {"a_b"},
		"v+":    {"v+"},
	}
	c := start(t, open)
	topic := TopicName()
	queues := map[string]string{}
	for pattern := range patterns {
		queues[pattern] = Declare(t, c, broker.Queue{})
		Bind(t, c, queues[pattern], topic, pattern)
	}
	for _, key := range keys {
		PublishTo(t, c, broker.Address{Topic: topic, RoutingKey: key}, key)
	}
	for pattern, want := range patterns {
		WantReady(t, c, queues[pattern], int64(len(want)))
		sub := Subscribe(t, c, queues[pattern], len(keys))
		var got []string
		for range want {
			got = append(got, string(Receive(t, sub).Body))
		}
		if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("pattern %q gets the routing keys %q, want %q", pattern, got, want)
		}
	}
}

// testTopicsApart has a topic whose name is another topic's name plus one of its routing keys, and a topic that is named
// like a queue.
func testTopicsApart(t *testing.T, open Open) {
	c := start(t, open)
	short := TopicName()
	long := short + ".eu"
	ofShort, ofLong := Declare(t, c, broker.Queue{}), Declare(t, c, broker.Queue{})
	Bind(t, c, ofShort, short, "#")
	Bind(t, c, ofLong, long, "#")

	PublishTo(t, c, broker.Address{Topic: short, RoutingKey: "eu"}, "to the short one")
	PublishTo(t, c, broker.Address{Topic: long}, "to the long one")
	for queue, want := range map[string]string{ofShort: "to the short one", ofLong: "to the long one"} {
		sub := Subscribe(t, c, queue, 2)
		if d := Receive(t, sub); string(d.Body) != want {
			t.Errorf("received %q, want %q", d.Body, want)
		}
		ReceiveNothing(t, sub)
	}
	if err := c.Publish(Patient(t), broker.Address{Topic: ofShort}, Message("lost")); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Publish to a topic with the name of a queue: %v, want ErrNoQueue", err)
	}
}

func testUnboundTopic(t *testing.T, open Open) {
	c := start(t, open)
	queue, topic := Declare(t, c, broker.Queue{}), TopicName()
	wantNone := func(when, key string) {
		t.Helper()
		err := c.Publish(Patient(t), broker.Address{Topic: topic, RoutingKey: key}, Message("lost"))
		if !errors.Is(err, broker.ErrNoQueue) {
			t.Errorf("Publish %s: %v, want ErrNoQueue", when, err)
		}
	}
	wantNone("before a binding", "a.b")
	Bind(t, c, queue, topic, "a")
	wantNone("where the key goes on", "a.b")
	wantNone("where the key is another", "b")
	wantNone("where there is no key", "")
	WantReady(t, c, queue, 0)

	PublishTo(t, c, broker.Address{Topic: topic, RoutingKey: "a"}, "kept")
	WantReady(t, c, queue, 1)
	if err := c.Delete(Patient(t), queue); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	wantNone("where the queue was deleted", "a")
	Declare(t, c, broker.Queue{Name: queue})
	wantNone("where the queue was made anew", "a")
}

func testCopies(t *testing.T, open Open) {
	c := start(t, open)
	topic := TopicName()
	twice, once := Declare(t, c, broker.Queue{}), Declare(t, c, broker.Queue{})
	Bind(t, c, twice, topic, "#")
	Bind(t, c, twice, topic, "a.*")
	Bind(t, c, once, topic, "*.b")

	want := Message("to two queues")
	want.Attributes = map[string]string{"of": "the publisher"}
	want.Headers = map[string]string{"of": "the service"}
	if err := c.Publish(Patient(t), broker.Address{Topic: topic, RoutingKey: "a.b"}, want); err != nil {
		t.Fatalf("Publish: %v", err)
	}
	for _, queue := range []string{twice, once} {
		sub := Subscribe(t, c, queue, 2)
		d := Receive(t, sub)
		wantMessage(t, d.Message, want)
		Ack(t, d)
		ReceiveNothing(t, sub)
	}
}

func testUnbind(t *testing.T, open Open) {
	c := start(t, open)
	queue, topic := Declare(t, c, broker.Queue{}), TopicName()
	unbind := func(queue, pattern string) {
		t.Helper()
		if err := c.Unbind(Patient(t), queue, broker.Binding{Topic: topic, Pattern: pattern}); err != nil {
			t.Errorf("Unbind: %v", err)
		}
	}
	unbind(queue, "never.bound")
	unbind(QueueName(t, c), "a")
	Bind(t, c, queue, topic, "a")
	Bind(t, c, queue, topic, "b")
	unbind(queue, "a")
	unbind(queue, "a")

	err := c.Publish(Patient(t), broker.Address{Topic: topic, RoutingKey: "a"}, Message("lost"))
	if !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Publish after Unbind: %v, want ErrNoQueue", err)
	}
	PublishTo(t, c, broker.Address{Topic: topic, RoutingKey: "b"}, "by the other binding")
	WantReady(t, c, queue, 1)
}

func testBind(t *testing.T, open Open) {
	c := start(t, open)
	unknown, topic := QueueName(t, c), TopicName()
	if err := c.Bind(Patient(t), unknown, broker.Binding{Topic: topic, Pattern: "#"}); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Bind of an unknown queue: %v, want ErrNoQueue", err)
	}
	queue := Declare(t, c, broker.Queue{})
	Bind(t, c, queue, topic, "a")
	Bind(t, c, queue, topic, "a")
	Declare(t, c, broker.Queue{Name: queue}) // It keeps its bindings.
	PublishTo(t, c, broker.Address{Topic: topic, RoutingKey: "a"}, "one copy")
	sub := Subscribe(t, c, queue, 2)
	Receive(t, sub)
	ReceiveNothing(t, sub)

	// It was bound once, so to unbind it once is enough.
	if err := c.Unbind(Patient(t), queue, broker.Binding{Topic: topic, Pattern: "a"}); err != nil {
		t.Errorf("Unbind: %v", err)
	}
	err := c.Publish(Patient(t), broker.Address{Topic: topic, RoutingKey: "a"}, Message("lost"))
	if !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Publish after Unbind: %v, want ErrNoQueue", err)
	}
}
