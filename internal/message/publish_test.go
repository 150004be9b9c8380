package message_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	large := map[string]string{"a": strings.Repeat("x", 100)}
	tooLarge := message.Publication{To: message.ToQueue(q), Body: make([]byte, message.MaxBytes-100), Attributes: large}
	fits := tooLarge
	fits.Body = fits.Body[1:]
	for _, delay := range []time.Duration{0, time.Hour} {
		tooLarge.Delay, fits.Delay = delay, delay
		if _, err := f.Publish(within(t), tooLarge); !errs.Is(err, errs.ResourceExhausted) {
			t.Errorf("too large: %v", err)
		}
		if _, err := f.Publish(within(t), fits); err != nil {
			t.Errorf("just fits: %v", err)
		}
		none := message.Publication{To: message.ToQueue(name(t, "none")), Delay: delay}
		if _, err := f.Publish(within(t), none); !errs.Is(err, errs.NotFound) {
			t.Errorf("unknown queue: %v", err)
		}
	}
}

func TestPublishCreatesQueues(t *testing.T) {
	t.Parallel()
	f := newFixture(t, true)
	f.publish(t, name(t, "now"), "a")
	if got, err := f.GetQueue(within(t), name(t, "now")); err != nil || got.Stats.Depth != 1 {
		t.Errorf("%+v %v", got, err)
	}
	f.publishTx(t, to(name(t, "later"), "a"))
	f.relay(t)
	f.drained(t)
	if got, err := f.GetQueue(within(t), name(t, "later")); err != nil || got.Stats.Depth != 1 || got.MaxAttempts != message.DefaultPolicy.MaxAttempts {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := f.Consume(within(t), name(t, "other"), 1, 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("subscribing must not create: %v", err)
	}
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := message.ToQueue(f.queue(t, "orders"))
	many := map[string]string{}
	for range 100 {
		many[uuid.NewString()] = strings.Repeat("x", 1000)
	}
	for want, p := range map[string]message.Publication{
		"delay: ":            {Delay: message.MaxDelay + 1},
		"delay: 0":           {Delay: -1},
		"deliver_time: up":   {DeliverAt: time.Now().Add(message.MaxDelay + time.Minute)},
		"deliver_time: only": {DeliverAt: time.Now().Add(time.Minute), Delay: time.Second},
		"idempotency_key: ":  {IdempotencyKey: strings.Repeat("x", 256)},
		"idempotency_key:":   {IdempotencyKey: "a\x00"},
		"idempotency_key":    {IdempotencyKey: "\xff"},
		"attributes: \"\\":   {Attributes: map[string]string{"\xff": "a"}},
		"attributes: \"a\"":  {Attributes: map[string]string{"a": "\xff"}},
		"attributes: \"xx":   {Attributes: map[string]string{strings.Repeat("x", 256): ""}},
		"attributes: 1":      {Attributes: many},
	} {
		p.To = q
		if _, err := f.Publish(within(t), p); !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := f.Publish(within(t), message.Publication{To: q, IdempotencyKey: strings.Repeat("x", 255), Delay: message.MaxDelay}); err != nil {
		t.Error(err)
	}
}

// TestPublishNow publishes without the database.
func TestPublishNow(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := message.ToQueue(f.queue(t, "orders"))
	f.db.Close()
	for _, p := range []message.Publication{{}, {DeliverAt: time.Now().Add(-time.Second)}, {DeliverAt: time.Unix(0, 0)}} {
		p.To = q
		if _, err := f.Publish(within(t), p); err != nil {
			t.Error(err)
		}
	}
	deliveries := f.raw(t, "orders")
	for range 3 {
		take(t, deliveries)
	}
}

func TestPublishTx(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.relay(t)
	deliveries := f.raw(t, "orders")
	undo := errors.New("undo")
	var ids []string
	for _, outcome := range []error{undo, nil} {
		err := f.db.InTx(within(t), func(tx *pg.Tx) error {
			receipt, err := f.PublishTx(within(t), tx, message.Publication{To: message.ToQueue(q), Attributes: map[string]string{"a": "b"}})
			if err != nil {
				t.Error(err)
			}
			ids = append(ids, receipt.ID)
			empty(t, deliveries)
			return outcome
		})
		if err != outcome {
			t.Error(err)
		}
	}
	if d := take(t, deliveries); d.ID != ids[1] || d.Attributes["a"] != "b" {
		t.Errorf("%+v", d)
	}
	// A delay counts from the call, however long the transaction has been open.
	start := time.Now()
	_ = f.db.InTx(within(t), func(tx *pg.Tx) error {
		if _, err := tx.Exec(within(t), `SELECT pg_sleep(0.3)`); err != nil {
			t.Error(err)
		}
		_, err := f.PublishTx(within(t), tx, message.Publication{To: message.ToQueue(q), Delay: 300 * time.Millisecond})
		return err
	})
	if take(t, deliveries); time.Since(start) < 600*time.Millisecond {
		t.Errorf("delivered after %v", time.Since(start))
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	at := time.Now().Add(time.Hour).Round(time.Microsecond)
	receipt, err := f.Publish(within(t), message.Publication{
		To: message.ToQueue(q), Body: []byte{0, 1}, Attributes: map[string]string{"a": "b"}, DeliverAt: at,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.GetMessage(within(t), strings.ToUpper(receipt.ID))
	if err != nil || m.ID != receipt.ID || m.Queue != q || m.Topic != "" || !m.DeliverAt.Equal(at) || m.Attempts != 0 || m.Reason != "" ||
		string(m.Body) != "\x00\x01" || !maps.Equal(m.Attributes, map[string]string{"a": "b"}) {
		t.Errorf("%+v %v", m, err)
	}
	if err := f.CancelMessage(within(t), receipt.ID); err != nil {
		t.Error(err)
	}
	for _, id := range []string{receipt.ID, f.publish(t, q, "in the queue"), uuid.NewString()} {
		if _, err := f.GetMessage(within(t), id); !errs.Is(err, errs.NotFound) {
			t.Errorf("got: %v", err)
		}
		if err := f.CancelMessage(within(t), id); !errs.Is(err, errs.NotFound) {
			t.Errorf("cancelled: %v", err)
		}
	}
	if _, err := f.GetMessage(within(t), "x"); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	// A message that waits in two queues is described for the first and cancelled for both.
	id := uuid.NewString()
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, attempts, reason, body) VALUES
		('default', $1::text::uuid, 'b', now() + interval '1 hour', 2, 'later', ''), ('default', $1::text::uuid, 'a', now() + interval '2 hours', 1, '', '')`, id)
	if m, err := f.GetMessage(within(t), id); err != nil || m.Queue.String() != "b" || m.Attempts != 2 || m.Reason != "later" {
		t.Errorf("%+v %v", m, err)
	}
	if err := f.CancelMessage(within(t), id); err != nil || f.waiting(t) != 0 {
		t.Errorf("%v, %d wait", err, f.waiting(t))
	}
}

func TestPublishBatch(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q, none := message.ToQueue(f.queue(t, "orders")), message.ToQueue(name(t, "none"))
	var batches []int
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		batches = append(batches, len(batch))
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	results := f.PublishBatch(within(t), []message.Publication{
		{To: q, Body: []byte("0")},
		{To: none},
		{To: q, Delay: time.Hour},
		{To: none, Delay: time.Hour},
		{To: q, Body: make([]byte, message.MaxBytes+1), Delay: time.Hour, IdempotencyKey: "k"},
		{To: q, IdempotencyKey: "k", Delay: time.Hour},
		{To: q, IdempotencyKey: "k", Delay: time.Hour},
		{To: topic(t, "unbound", "")},
		{To: topic(t, "unbound", ""), Delay: time.Hour},
		{To: q, Delay: -1},
		{To: q, Body: []byte("10")},
	})
	kinds := []errs.Kind{0, errs.NotFound, 0, errs.NotFound, errs.ResourceExhausted, 0, 0, errs.NotFound, errs.NotFound, errs.InvalidArgument, 0}
	for i, r := range results {
		if (kinds[i] != 0) != (r.Err != nil) || r.Err != nil && !errs.Is(r.Err, kinds[i]) {
			t.Errorf("%d: %v", i, r.Err)
		}
		if (r.Err == nil) != (r.ID != "") || r.Duplicate != (i == 6) {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if results[6].ID != results[5].ID {
		t.Error("the duplicate has an id of its own")
	}
	if n := f.waiting(t); n != 2 {
		t.Errorf("%d wait", n)
	}
	deliveries := f.raw(t, "orders")
	if a, b := take(t, deliveries), take(t, deliveries); a.ID != results[0].ID || b.ID != results[10].ID || string(b.Body) != "10" {
		t.Errorf("%s and %s came", a.ID, b.ID)
	}
	if batches[0] != 3 {
		t.Errorf("%v messages at a time", batches)
	}
	if results := f.PublishBatch(within(t), nil); len(results) != 0 {
		t.Errorf("%v", results)
	}
}

func TestPublishCarriesTheTrace(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := message.ToQueue(f.queue(t, "orders"))
	f.relay(t)
	deliveries := f.raw(t, "orders")
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx := observe.WithTrace(within(t), parent, "a=b")
	for _, p := range []message.Publication{{To: q}, {To: q, Delay: time.Millisecond}} {
		if _, err := f.Publish(ctx, p); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"tenant": "default", "traceparent": parent, "tracestate": "a=b"}
		if d := take(t, deliveries); !maps.Equal(d.Headers, want) {
			t.Errorf("headers %v", d.Headers)
		}
	}
}
