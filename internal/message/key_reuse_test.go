package message_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
)

// A key stands for one message: whatever differs is refused, and the error names the first message.
func TestIdempotencyKeyOfAnotherMessage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), name(t, "other")
	policy := message.Policy{Bindings: []message.Binding{{Topic: "orders", Pattern: "#"}}}
	if _, err := f.CreateQueue(within(t), other, policy); err != nil {
		t.Fatal(err)
	}
	first := message.Publication{
		To: message.ToQueue(q), Body: []byte("one"), Attributes: map[string]string{"a": "1", "b": "2"}, IdempotencyKey: "k", Delay: time.Hour,
	}
	receipt, err := f.Publish(within(t), first)
	if err != nil {
		t.Fatal(err)
	}
	wantReused := func(what string, err error, id string) {
		t.Helper()
		var refused *errs.Error
		if !errors.As(err, &refused) || refused.Kind != errs.FailedPrecondition || refused.Reason != "IDEMPOTENCY_KEY_REUSED" ||
			!strings.Contains(refused.Message, id) {
			t.Errorf("%s: %v", what, err)
		}
	}
	changed := map[string]func(*message.Publication){
		"another payload":     func(p *message.Publication) { p.Body = []byte("two") },
		"no payload":          func(p *message.Publication) { p.Body = nil },
		"another attribute":   func(p *message.Publication) { p.Attributes = map[string]string{"a": "1", "b": "3"} },
		"an attribute less":   func(p *message.Publication) { p.Attributes = map[string]string{"a": "1"} },
		"attributes run on":   func(p *message.Publication) { p.Attributes = map[string]string{"a": "1b2"} },
		"another queue":       func(p *message.Publication) { p.To = message.ToQueue(other) },
		"a topic of the name": func(p *message.Publication) { p.To = topic(t, "orders", "") },
		"a topic with a key":  func(p *message.Publication) { p.To = topic(t, "orders", "a.b") },
		"payload as attribute": func(p *message.Publication) {
			p.Body, p.Attributes = nil, map[string]string{"one": "", "a": "1", "b": "2"}
		},
	}
	for what, change := range changed {
		p := first
		change(&p)
		_, err := f.Publish(within(t), p)
		wantReused(what, err, receipt.ID)
		results := f.PublishBatch(within(t), []message.Publication{p, to(q, "beside it")})
		wantReused(what+" in a batch", results[0].Err, receipt.ID)
		if results[1].Err != nil {
			t.Errorf("beside %s: %v", what, results[1].Err)
		}
	}
	again := first
	again.Delay = 0 // When it is delivered does not tell messages apart.
	if got, err := f.Publish(within(t), again); err != nil || !got.Duplicate || got.ID != receipt.ID {
		t.Errorf("the same: %+v %v", got, err)
	}
	topicFirst, err := f.Publish(within(t), message.Publication{To: topic(t, "orders", "a"), IdempotencyKey: "t"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Publish(within(t), message.Publication{To: topic(t, "orders", "b"), IdempotencyKey: "t"})
	wantReused("another routing key", err, topicFirst.ID)
	results := f.PublishBatch(within(t), []message.Publication{
		{To: message.ToQueue(q), Body: []byte("x"), IdempotencyKey: "n"}, {To: message.ToQueue(q), Body: []byte("y"), IdempotencyKey: "n"},
	})
	wantReused("twice in one batch", results[1].Err, results[0].ID)
	if results[0].Err != nil {
		t.Error(results[0].Err)
	}
	if got, err := f.Publish(as(t, "stranger"), message.Publication{To: message.ToQueue(q), IdempotencyKey: "k"}); !errs.Is(err, errs.NotFound) {
		t.Errorf("another tenant with the key: %+v %v", got, err)
	}
}

// A key of the release before, which did not store what it was used for, is compared by its destination.
func TestIdempotencyKeyFromBefore(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	const id = "01a207b7-cfee-74eb-a938-89f827930982"
	f.exec(t, `INSERT INTO message_keys (tenant, destination, key, id) VALUES ('default', 'orders', 'k', $1)`, id)
	if got, err := f.Publish(within(t), message.Publication{To: message.ToQueue(q), IdempotencyKey: "k"}); err != nil || got.ID != id || !got.Duplicate {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := f.Publish(within(t), message.Publication{To: message.ToQueue(other), IdempotencyKey: "k"}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("another queue: %v", err)
	}
}

// Cancelling a message and purging its queue free the key for another message.
func TestIdempotencyKeyIsFreed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	publish := func(to message.QueueName, key, body string, delay time.Duration) message.Receipt {
		t.Helper()
		receipt, err := f.Publish(within(t), message.Publication{
			To: message.ToQueue(to), Body: []byte(body), IdempotencyKey: key, Delay: delay,
		})
		if err != nil {
			t.Fatal(err)
		}
		if receipt.Duplicate {
			t.Errorf("%s: the key is used", body)
		}
		return receipt
	}
	publish(q, "kept", "kept", time.Hour)
	receipt := publish(q, "cancelled", "first", time.Hour)
	if err := f.CancelMessage(within(t), receipt.ID); err != nil {
		t.Fatal(err)
	}
	publish(q, "cancelled", "second", time.Hour)

	publish(q, "waits", "first", time.Hour)
	publish(q, "in the queue", "first", 0)
	publish(other, "of another", "first", time.Hour)
	stop := f.relay(t)
	f.depth(t, q, 1)
	stop()
	if _, err := f.PurgeQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"waits", "in the queue", "kept"} {
		publish(q, key, "second", time.Hour)
	}
	if again, err := f.Publish(within(t), message.Publication{To: message.ToQueue(other), Body: []byte("first"), IdempotencyKey: "of another"}); err != nil || !again.Duplicate {
		t.Errorf("a key of another queue is free: %+v %v", again, err)
	}
}
