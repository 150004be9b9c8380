package message_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/broker"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

// send publishes with attributes, as k, v, k, v.
func (f fixture) send(t *testing.T, ctx context.Context, q message.QueueName, body []byte, attributes ...string) string {
	t.Helper()
	p := message.Publication{To: message.ToQueue(q), Body: body, Attributes: map[string]string{}}
	for i := 0; i < len(attributes); i += 2 {
		p.Attributes[attributes[i]] = attributes[i+1]
	}
	receipt, err := f.Publish(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	return receipt.ID
}

func TestProtoPayload(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "bindings", quick)
	got := make(chan *messagev1.Binding, 10)
	f.worker(t, time.Second, message.Handle("bindings", func(_ context.Context, b *messagev1.Binding) error {
		got <- b
		return nil
	}))
	want := &messagev1.Binding{Topic: "t", Pattern: "#"}
	binary, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	f.send(t, within(t), q, binary)
	f.send(t, within(t), q, []byte(`{"topic": "t", "pattern": "#", "new": 1}`), "content-type", "application/json; charset=utf-8")
	for range 2 {
		if b := <-got; !proto.Equal(b, want) {
			t.Errorf("got %v", b)
		}
	}
	f.send(t, within(t), q, []byte{0xff})
	f.send(t, within(t), q, []byte(`{"topic": 1}`), "content-type", "application/json")
	for _, d := range f.dead(t, q, 2) {
		form := "binary"
		if len(d.Body) > 1 {
			form = "JSON"
		}
		if d.Attempts != 1 || !strings.HasPrefix(d.Reason, "payload: not a plinth.message.v1.Binding in "+form+" form: ") {
			t.Errorf("%+v", d)
		}
	}
	if len(got) != 0 {
		t.Errorf("%v was handled", <-got)
	}
}

func TestJSONPayload(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	type order struct{ ID int }
	q := f.queueOf(t, "orders", quick)
	got := make(chan order, 10)
	f.worker(t, time.Second, message.HandleJSON("orders", func(_ context.Context, o order) error {
		got <- o
		return nil
	}))
	f.publish(t, q, `{"id": 7, "new": true}`)
	if o := <-got; o.ID != 7 {
		t.Errorf("%+v", o)
	}
	f.publish(t, q, `{"id": 8} {"id": 9}`)
	f.publish(t, q, `{"id": "ten"}`)
	for _, d := range f.dead(t, q, 2) {
		if !strings.HasPrefix(d.Reason, "payload: not a message_test.order in JSON: ") {
			t.Errorf("%+v", d)
		}
	}
}

func TestHandlerContext(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "orders", quick)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	done := make(chan struct{})
	var seen []message.Message
	f.worker(t, time.Second, message.HandleJSON("orders", func(ctx context.Context, _ any) error {
		seen = append(seen, message.FromContext(ctx))
		if got, state := observe.Trace(ctx); got != parent || state != "a=b" {
			t.Errorf("trace %q %q", got, state)
		}
		if len(seen) == 1 {
			return errors.New("not yet")
		}
		close(done)
		return nil
	}))
	id := f.send(t, observe.WithTrace(within(t), parent, "a=b"), q, []byte("1"), "k", "v")
	<-done
	for i, m := range seen {
		if m.ID != id || m.Attempt != i+1 || m.Attributes["k"] != "v" || string(m.Body) != "1" {
			t.Errorf("%+v", m)
		}
	}
	if line := f.line(t, "message handled"); line["trace_id"] != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("%v", line)
	}
	if m := message.FromContext(t.Context()); m.ID != "" {
		t.Errorf("a message out of nothing: %+v", m)
	}
}

// effects creates a table that handlers write to, and returns a function that counts its rows.
func (f fixture) effects(t *testing.T) (count func() int) {
	t.Helper()
	f.schema(t, `CREATE TABLE effects (body text, tenant text NOT NULL DEFAULT current_setting('plinth.tenant'));
		SELECT plinth_isolate('effects')`)
	return func() (n int) {
		t.Helper()
		if err := f.db.QueryRow(within(t), "SELECT count(*) FROM effects").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

func insert(ctx context.Context, tx *pg.Tx, m message.Message) error {
	_, err := tx.Exec(ctx, "INSERT INTO effects VALUES ($1)", string(m.Body))
	return err
}

// redeliver publishes a message on the broker again, with the id of one that this or another queue has delivered.
func (f fixture) redeliver(t *testing.T, q message.QueueName, id string) {
	t.Helper()
	m := broker.Message{ID: id, Body: []byte("work")}
	if err := f.broker.Publish(within(t), broker.Address{Queue: "default." + q.String()}, m); err != nil {
		t.Fatal(err)
	}
}

// handled blocks until there are the given number of log lines.
func (f fixture) handled(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); f.logs.FilterMessage("message handled").Len() < n; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d messages handled, want %d", f.logs.FilterMessage("message handled").Len(), n)
		}
	}
}

// TestEffectOnce has a handler that fails after its work is done, and then redelivers a message that was handled.
func TestEffectOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	effects := f.effects(t)
	q, follow := f.queueOf(t, "tasks", quick), f.queue(t, "follow-ups")
	var calls atomic.Int32
	f.worker(t, time.Second, message.HandleBytesTx("tasks", func(ctx context.Context, tx *pg.Tx, m message.Message) error {
		if err := insert(ctx, tx, m); err != nil {
			return err
		}
		if _, err := f.PublishTx(ctx, tx, message.Publication{To: message.ToQueue(follow), Body: m.Body}); err != nil {
			return err
		}
		switch calls.Add(1) {
		case 1:
			return errors.New("not yet")
		case 2:
			panic("not yet either")
		}
		return nil
	}))
	id := f.publish(t, q, "work")
	sub := f.subscribe(t, follow, 10, long)
	one(t, sub)
	f.line(t, "message handled")
	if n := effects(); n != 1 || calls.Load() != 3 {
		t.Errorf("%d effects of %d calls", n, calls.Load())
	}
	f.redeliver(t, q, id)
	f.handled(t, 2)
	if n := effects(); n != 1 || calls.Load() != 3 {
		t.Errorf("%d effects of %d calls", n, calls.Load())
	}
	nothing(t, sub)
}

// TestEffectOnceByConsumer sends the same message to two queues.
func TestEffectOnceByConsumer(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	effects := f.effects(t)
	a, b, c := f.queue(t, "a"), f.queue(t, "b"), f.queue(t, "c")
	f.worker(t, time.Second, message.HandleBytesTx("a", insert), message.HandleBytesTx("b", insert),
		message.HandleBytesTx("c", insert, message.Consumer("a")))
	id := f.publish(t, a, "work")
	f.redeliver(t, b, id)
	f.redeliver(t, c, id)
	f.handled(t, 3)
	if n := effects(); n != 2 {
		t.Errorf("%d effects, want one of a and c, and one of b", n)
	}
}

func TestTypedEffects(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	effects := f.effects(t)
	f.worker(t, time.Second,
		message.HandleTx("protos", func(ctx context.Context, tx *pg.Tx, b *messagev1.Binding) error {
			return insert(ctx, tx, message.Message{Body: []byte(b.GetTopic())})
		}),
		message.HandleJSONTx("jsons", func(ctx context.Context, tx *pg.Tx, s string) error {
			return insert(ctx, tx, message.Message{Body: []byte(s)})
		}))
	f.send(t, within(t), name(t, "protos"), []byte(`{"topic": "t"}`), "content-type", "application/json")
	f.publish(t, name(t, "jsons"), `"s"`)
	f.publish(t, name(t, "jsons"), `s`)
	f.dead(t, name(t, "jsons"), 1)
	f.handled(t, 2)
	if n := effects(); n != 2 {
		t.Errorf("%d effects", n)
	}
}
