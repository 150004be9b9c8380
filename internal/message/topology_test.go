package message_test

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

func (f fixture) bound(t *testing.T, queue string, bindings ...message.Binding) message.QueueName {
	t.Helper()
	q := name(t, queue)
	if _, err := f.CreateQueue(within(t), q, message.Policy{Bindings: bindings}); err != nil {
		t.Fatal(err)
	}
	return q
}

func TestPublishToATopic(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	f.bound(t, "both", message.Binding{Topic: "news", Pattern: "a.#"}, message.Binding{Topic: "news", Pattern: "*.b"})
	f.bound(t, "other", message.Binding{Topic: "news", Pattern: "c"}, message.Binding{Topic: "else", Pattern: "#"})
	both, other := f.raw(t, "both"), f.raw(t, "other")
	p := message.Publication{To: topic(t, "news", "a.b"), Body: []byte("x")}
	receipt, err := f.Publish(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if d := take(t, both); d.ID != receipt.ID || string(d.Body) != "x" {
		t.Errorf("%+v", d)
	}
	empty(t, both)
	empty(t, other)
	for _, delay := range []time.Duration{0, time.Hour} {
		for _, nowhere := range []message.Destination{topic(t, "news", "b"), topic(t, "news", ""), topic(t, "unbound", "a.b")} {
			if _, err := f.Publish(within(t), message.Publication{To: nowhere, Delay: delay}); !errs.Is(err, errs.NotFound) {
				t.Errorf("%v: %v", nowhere, err)
			}
		}
	}
}

// TestPublishToATopicOfAnEmptyBroker has the broker come back without queues and bindings.
func TestPublishToATopicOfAnEmptyBroker(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	f.bound(t, "a", message.Binding{Topic: "news", Pattern: "#"})
	f.bound(t, "b", message.Binding{Topic: "news", Pattern: "#"})
	p := message.Publication{To: topic(t, "news", "x")}
	publish := func() {
		t.Helper()
		if _, err := f.Publish(within(t), p); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	before := f.trouble.declared.Load()
	publish()
	if n := f.trouble.declared.Load() - before; n != 0 {
		t.Errorf("%d queues declared again", n)
	}
	if err := f.broker.Delete(within(t), "default.b"); err != nil {
		t.Fatal(err)
	}
	f.trouble.generation.Add(1)
	publish()
	if d := take(t, f.raw(t, "b")); d.ID == "" {
		t.Errorf("%+v", d)
	}
	// If the broker comes back in the middle of a publish, it is unknown which queues the message has reached.
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		f.trouble.generation.Add(1)
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	if _, err := f.Publish(within(t), p); !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
	for i, r := range f.PublishBatch(within(t), []message.Publication{p, {To: message.ToQueue(name(t, "a"))}}) {
		if errs.Is(r.Err, errs.Unavailable) != (i == 0) {
			t.Errorf("%d: %v", i, r.Err)
		}
	}
}

// TestTopicOfTenantsOfAnEmptyBroker has two tenants publish to a topic of the same name. Both topics have to be declared
// again.
func TestTopicOfTenantsOfAnEmptyBroker(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	bothTenants(t, f.fixture)
	for range 20 {
		f.trouble.generation.Add(1)
		var group errgroup.Group
		for _, tenant := range []string{"a", "b"} {
			if err := f.broker.Delete(within(t), tenant+".orders"); err != nil {
				t.Fatal(err)
			}
		}
		for _, tenant := range []string{"a", "b"} {
			group.Go(func() error {
				_, err := f.Publish(as(t, tenant), message.Publication{To: topic(t, "news", "x")})
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTopicPatterns compares the check of waiting messages with what the broker does with messages that are sent at once.
func TestTopicPatterns(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	keys := []string{"", "a", "b", "a.b", "a.a", "b.a", "a.b.c", "a.b.b", "c.b.a", "a.b.c.d", "a.x.b.y.c"}
	for i, pattern := range []string{"#", "*", "a", "a.b", "a.*", "*.a", "a.#", "#.a", "#.b.#", "a.#.c", "*.*", "#.#", "*.#", "#.*.b", "a.#.b.#.c", "a.*.b"} {
		topicName := "t" + string(rune('a'+i))
		f.bound(t, "q-"+topicName, message.Binding{Topic: topicName, Pattern: pattern})
		for _, key := range keys {
			_, now := f.Publish(within(t), message.Publication{To: topic(t, topicName, key)})
			_, later := f.Publish(within(t), message.Publication{To: topic(t, topicName, key), Delay: time.Hour})
			if (now == nil) != (later == nil) || now != nil && (!errs.Is(now, errs.NotFound) || !errs.Is(later, errs.NotFound)) {
				t.Errorf("pattern %s, key %q: now %v, later %v", pattern, key, now, later)
			}
		}
	}
}
