package message_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// as returns within's context for another tenant.
func as(t *testing.T, tenant string) context.Context {
	t.Helper()
	return auth.AsService(within(t), tenant)
}

func (f fixture) queueAs(t *testing.T, tenant, s string, policy message.Policy) message.QueueName {
	t.Helper()
	q := name(t, s)
	if _, err := f.CreateQueue(as(t, tenant), q, policy); err != nil {
		t.Fatal(err)
	}
	return q
}

func (f fixture) publishAs(t *testing.T, tenant string, p message.Publication) string {
	t.Helper()
	receipt, err := f.Publish(as(t, tenant), p)
	if err != nil {
		t.Fatal(err)
	}
	return receipt.ID
}

func (f fixture) subscribeAs(t *testing.T, tenant string, q message.QueueName) *message.Subscription {
	t.Helper()
	sub, err := f.Consume(as(t, tenant), q, 10, long)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	return sub
}

var onNews = message.Policy{MaxAttempts: 3, Bindings: []message.Binding{{Topic: "news", Pattern: "#"}}}

// bothTenants creates a queue of the same name for two tenants, each bound to a topic of the same name.
func bothTenants(t *testing.T, f fixture) message.QueueName {
	t.Helper()
	f.queueAs(t, "a", "orders", onNews)
	return f.queueAs(t, "b", "orders", onNews)
}

func TestQueuesOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueAs(t, "a", "orders", message.Policy{MaxAttempts: 3})
	f.queueAs(t, "b", "orders", message.Policy{MaxAttempts: 5})
	f.queueAs(t, "b", "more", message.Policy{})
	if _, err := f.UpdateQueue(as(t, "b"), q, func(p *message.Policy) { p.MinBackoff = 2 * time.Second; p.Bindings = onNews.Bindings }); err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[string]struct {
		names   string
		backoff time.Duration
		most    int
	}{"a": {"[orders]", time.Second, 3}, "b": {"[more orders]", 2 * time.Second, 5}} {
		got, err := f.GetQueue(as(t, tenant), q)
		if err != nil || got.MaxAttempts != want.most || got.MinBackoff != want.backoff || len(got.Bindings) != want.most/5 {
			t.Errorf("%s: %+v %v", tenant, got, err)
		}
		page, _, err := f.ListQueues(as(t, tenant), 0, "")
		var names []string
		for _, q := range page {
			names = append(names, q.Name.String())
		}
		if err != nil || fmt.Sprint(names) != want.names {
			t.Errorf("%s has %v, %v", tenant, names, err)
		}
	}
	if err := f.DeleteQueue(as(t, "b"), q); err != nil {
		t.Fatal(err)
	}
	if _, err := f.GetQueue(as(t, "a"), q); err != nil {
		t.Errorf("a's queue after that of b was deleted: %v", err)
	}
	if id := f.publishAs(t, "a", to(q, "x")); one(t, f.subscribeAs(t, "a", q)).ID != id {
		t.Error("a's queue is of no use after that of b was deleted")
	}
}

// TestOthersFindNothing asks for what a tenant has as another tenant, and as a caller without a tenant.
func TestOthersFindNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueAs(t, "a", "orders", onNews)
	held := f.publishAs(t, "a", message.Publication{To: message.ToQueue(q), Delay: time.Hour})
	f.publishAs(t, "a", to(q, "x"))
	f.lettersOf(t, "a", q, 3)
	letters, _, err := f.ListDeadLetters(as(t, "a"), q, message.Filter{}, 0, "")
	if err != nil || len(letters) != 3 {
		t.Fatalf("%v %v", letters, err)
	}
	dry := message.Choice{Filter: &message.Filter{}, DryRun: true}
	plan, _, err := f.PurgeDeadLetters(as(t, "a"), q, dry)
	if err != nil {
		t.Fatal(err)
	}
	for who, ctx := range map[string]context.Context{"another tenant": as(t, "c"), "nobody": auth.With(within(t), &auth.Principal{})} {
		for what, ask := range map[string]func() error{
			"GetQueue":    func() error { _, err := f.GetQueue(ctx, q); return err },
			"UpdateQueue": func() error { _, err := f.UpdateQueue(ctx, q, func(*message.Policy) {}); return err },
			"PauseQueue":  func() error { _, err := f.PauseQueue(ctx, q); return err },
			"PurgeQueue":  func() error { _, err := f.PurgeQueue(ctx, q); return err },
			"DeleteQueue": func() error { return f.DeleteQueue(ctx, q) },
			"Publish":     func() error { _, err := f.Publish(ctx, to(q, "x")); return err },
			"Publish later": func() error {
				_, err := f.Publish(ctx, message.Publication{To: message.ToQueue(q), Delay: 1})
				return err
			},
			"topic": func() error { _, err := f.Publish(ctx, message.Publication{To: topic(t, "news", "")}); return err },
			"topic later": func() error {
				_, err := f.Publish(ctx, message.Publication{To: topic(t, "news", ""), Delay: 1})
				return err
			},
			"PublishBatch":             func() error { return f.PublishBatch(ctx, []message.Publication{to(q, "x")})[0].Err },
			"Consume":                  func() error { _, err := f.Consume(ctx, q, 1, long); return err },
			"GetMessage":               func() error { _, err := f.GetMessage(ctx, held); return err },
			"CancelMessage":            func() error { return f.CancelMessage(ctx, held) },
			"ListDeadLetters":          func() error { _, _, err := f.ListDeadLetters(ctx, q, message.Filter{}, 0, ""); return err },
			"GetDeadLetter":            func() error { _, err := f.GetDeadLetter(ctx, letters[0].ID); return err },
			"RedriveDeadLetters":       func() error { _, _, err := f.RedriveDeadLetters(ctx, q, all, 0); return err },
			"PurgeDeadLetters":         func() error { _, _, err := f.PurgeDeadLetters(ctx, q, message.Choice{Token: plan.ID}); return err },
			"GetDeadLetterOperation":   func() error { _, err := f.GetDeadLetterOperation(ctx, plan.ID); return err },
			"ListDeadLetterOperations": func() error { _, _, err := f.ListDeadLetterOperations(ctx, q, 0, ""); return err },
		} {
			if err := ask(); !errs.Is(err, errs.NotFound) {
				t.Errorf("%s, %s: %v", who, what, err)
			}
		}
		if page, _, err := f.ListQueues(ctx, 0, ""); len(page) != 0 || err != nil {
			t.Errorf("%s lists %v, %v", who, page, err)
		}
	}
	if _, err := f.CreateQueue(auth.With(within(t), &auth.Principal{}), q, message.Policy{}); err == nil {
		t.Error("nobody makes a queue")
	}
	got, err := f.GetQueue(as(t, "a"), q)
	if err != nil || got.Paused || got.Stats.Depth != 1 || got.Stats.Waiting != 1 || got.Stats.DeadLetters != 3 {
		t.Errorf("a is left with %+v %+v %v", got, got.Stats, err)
	}
}

// TestSameNamesAndKeys publishes for two tenants to the same names of queues and topics, with the same keys.
func TestSameNamesAndKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	f.relay(t)
	keyed := message.Publication{To: message.ToQueue(q), Body: []byte("keyed"), IdempotencyKey: "k"}
	for _, tenant := range []string{"a", "b"} {
		deliveries := f.rawOf(t, tenant, "orders")
		want := []string{
			f.publishAs(t, tenant, to(q, "queue")),
			f.publishAs(t, tenant, message.Publication{To: topic(t, "news", "x"), Body: []byte("topic")}),
			f.PublishBatch(as(t, tenant), []message.Publication{to(q, "batch")})[0].ID,
			f.publishAs(t, tenant, message.Publication{To: topic(t, "news", "x"), Body: []byte("topic later"), Delay: time.Millisecond}),
		}
		first, err := f.Publish(as(t, tenant), keyed)
		if err != nil || first.Duplicate {
			t.Errorf("%s: the key is used already: %+v %v", tenant, first, err)
		}
		if again, err := f.Publish(as(t, tenant), keyed); err != nil || !again.Duplicate || again.ID != first.ID {
			t.Errorf("%s: %+v again, %v", tenant, again, err)
		}
		got := map[string]bool{}
		for range len(want) + 1 {
			d := take(t, deliveries)
			got[d.ID] = true
			if d.Headers["tenant"] != tenant {
				t.Errorf("%s: headers %v of %q", tenant, d.Headers, d.Body)
			}
		}
		for _, id := range append(want, first.ID) {
			if !got[id] {
				t.Errorf("%s: %s did not come", tenant, id)
			}
		}
		empty(t, deliveries)
	}
	for _, tenant := range []string{"a", "b"} {
		if got, err := f.GetQueue(as(t, tenant), q); err != nil || got.Stats.Depth != 0 || got.Stats.Waiting != 0 {
			t.Errorf("%s: %+v %v", tenant, got.Stats, err)
		}
	}
}

// TestSameIDs has a message with the same id in queues of two tenants.
func TestSameIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	id := uuid.Must(uuid.NewV7()).String()
	for _, tenant := range []string{"a", "b"} {
		to := broker.Address{Queue: tenant + ".orders"}
		if err := f.broker.Publish(within(t), to, broker.Message{ID: id, Body: []byte(tenant)}); err != nil {
			t.Fatal(err)
		}
	}
	a, b := f.subscribeAs(t, "a", q), f.subscribeAs(t, "b", q)
	one(t, a)
	one(t, b)
	a.Nack([]message.Nack{{ID: id, Delay: after(time.Hour)}})
	if _, err := f.GetMessage(as(t, "b"), id); !errs.Is(err, errs.NotFound) {
		t.Errorf("b finds what waits for a: %v", err)
	}
	b.Nack([]message.Nack{{ID: id, Delay: after(time.Hour)}})
	if err := f.CancelMessage(as(t, "b"), id); err != nil {
		t.Error(err)
	}
	if m, err := f.GetMessage(as(t, "a"), id); err != nil || string(m.Body) != "a" {
		t.Errorf("after b cancelled its own: %+v %v", m, err)
	}
}

func TestAutoCreateOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, true)
	q := name(t, "orders")
	f.publishAs(t, "a", to(q, "x"))
	f.publishAs(t, "b", message.Publication{To: message.ToQueue(q), Delay: time.Hour})
	for tenant, want := range map[string]message.Stats{"a": {Depth: 1}, "b": {Waiting: 1}} {
		if got, err := f.GetQueue(as(t, tenant), q); err != nil || got.Stats.Depth != want.Depth || got.Stats.Waiting != want.Waiting {
			t.Errorf("%s: %+v %v", tenant, got.Stats, err)
		}
	}
	if _, err := f.Publish(auth.With(within(t), &auth.Principal{}), to(q, "x")); err == nil {
		t.Error("nobody publishes")
	}
	if n := f.count(t, `SELECT count(*) FROM queues`); n != 2 {
		t.Errorf("%d queues", n)
	}
}

// TestTokensOfTenants has one tenant use the page tokens of another.
func TestTokensOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	for _, tenant := range []string{"a", "b"} {
		f.lettersOf(t, tenant, q, 3)
		for range 3 {
			if _, _, err := f.PurgeDeadLetters(as(t, tenant), q, message.Choice{Filter: &message.Filter{Reason: "none"}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, letters, err := f.ListDeadLetters(as(t, "a"), q, message.Filter{}, 2, "")
	if err != nil {
		t.Fatal(err)
	}
	_, operations, err := f.ListDeadLetterOperations(as(t, "a"), q, 2, "")
	if err != nil {
		t.Fatal(err)
	}
	for tenant, refused := range map[string]bool{"a": false, "b": true} {
		if _, _, err := f.ListDeadLetters(as(t, tenant), q, message.Filter{}, 2, letters); errs.Is(err, errs.InvalidArgument) != refused {
			t.Errorf("%s with a's token of dead letters: %v", tenant, err)
		}
		if _, _, err := f.ListDeadLetterOperations(as(t, tenant), q, 2, operations); errs.Is(err, errs.InvalidArgument) != refused {
			t.Errorf("%s with a's token of operations: %v", tenant, err)
		}
	}
}
