package message_test

import (
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// A batch of many tenants is published whole or not at all, and each message has a result of its own.
func TestPublishBatchTx(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	a, b := f.queueAs(t, "a", "orders", message.Policy{}), f.queueAs(t, "b", "orders", message.Policy{})
	f.queueAs(t, "a", "bound", message.Policy{Bindings: []message.Binding{{Topic: "news", Pattern: "#"}}})
	news, err := message.ToTopic("news", "x")
	if err != nil {
		t.Fatal(err)
	}
	batch := []message.TenantPublication{
		{"a", message.Publication{To: message.ToQueue(a), Body: []byte("a1"), IdempotencyKey: "k"}},
		{"b", message.Publication{To: message.ToQueue(b), Body: []byte("b1"), IdempotencyKey: "k"}},
		{"a", message.Publication{To: message.ToQueue(a), Body: []byte("a1"), IdempotencyKey: "k"}},
		{"b", message.Publication{To: message.ToQueue(name(t, "missing"))}},
		{"a", message.Publication{To: news, Body: []byte("a2")}},
		{"b", message.Publication{To: news}},
		{"c", message.Publication{To: message.ToQueue(a)}},
		{"b", message.Publication{To: message.ToQueue(b), Delay: -time.Second}},
	}
	var results []message.Result
	publish := func(then error) error {
		return f.system.InTx(within(t), func(tx *pg.Tx) (err error) {
			results, err = f.PublishBatchTx(within(t), tx, batch)
			if err != nil {
				return err
			}
			return then
		})
	}
	undone := errs.New(errs.Aborted, "undone")
	if err := publish(undone); err == nil || f.waiting(t) != 0 {
		t.Errorf("%v, and %d messages wait", err, f.waiting(t))
	}
	if err := publish(nil); err != nil {
		t.Fatal(err)
	}
	for i, want := range []errs.Kind{0, 0, 0, errs.NotFound, 0, errs.NotFound, errs.NotFound, errs.InvalidArgument} {
		if err := results[i].Err; want == 0 && err != nil || want != 0 && !errs.Is(err, want) {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if results[2].ID != results[0].ID || !results[2].Duplicate || results[1].Duplicate {
		t.Errorf("%+v", results)
	}
	if n := f.waiting(t); n != 3 {
		t.Errorf("%d messages wait", n)
	}
	f.relay(t)
	sub := f.subscribeAs(t, "b", b)
	if m := one(t, sub); m.ID != results[1].ID || string(m.Body) != "b1" {
		t.Errorf("%+v", m)
	}
}

// A tenant's transaction cannot publish for another tenant.
func TestPublishBatchTxOfATenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	b := f.queueAs(t, "b", "orders", message.Policy{})
	err := f.db.InTx(as(t, "a"), func(tx *pg.Tx) error {
		results, err := f.PublishBatchTx(as(t, "a"), tx, []message.TenantPublication{{"b", message.Publication{To: message.ToQueue(b)}}})
		if err == nil && results[0].Err == nil {
			t.Error("it was published")
		}
		return err
	})
	if n := f.waiting(t); n != 0 {
		t.Errorf("%d messages wait, %v", n, err)
	}
}
