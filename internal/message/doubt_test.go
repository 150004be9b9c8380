package message_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// doubtful has the broker keep what it is sent, and say nothing of it until its outcome is decided.
func (f troubledFixture) doubtful() (sent *atomic.Int32, decide chan error) {
	sent, decide = new(atomic.Int32), make(chan error, 1)
	f.trouble.publishes(func(_ context.Context, batch []broker.Publication) []error {
		outcomes := make([]error, len(batch))
		for i := range batch {
			sent.Add(1)
			outcomes[i] = &broker.InDoubt{Err: errAway, Outcome: decide}
		}
		return outcomes
	})
	return sent, decide
}

// A message that was sent, and not confirmed, is neither sent again nor cancelled until its outcome is known.
func TestMessageInDoubt(t *testing.T) {
	t.Parallel()
	for what, outcome := range map[string]error{"stored": nil, "lost": errAway} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newTroubled(t)
			q := f.queue(t, "orders")
			deliveries := f.raw(t, "orders")
			sent, decide := f.doubtful()
			ids := f.publishTx(t, to(q, "a"))
			f.relay(t)
			eventually(t, "the message is sent", func() bool { return sent.Load() > 0 })
			eventually(t, "it is in doubt", func() bool {
				return errs.Is(f.CancelMessage(within(t), ids[0]), errs.FailedPrecondition)
			})
			f.publishTx(t, message.Publication{To: message.ToQueue(q), Delay: time.Hour}) // Wakes the relay.
			<-time.After(2 * time.Second)
			if n := sent.Load(); n != 1 {
				t.Errorf("it was sent %d times", n)
			}
			f.trouble.publishes(nil)
			decide <- outcome
			if outcome == nil {
				eventually(t, "it waits no more", func() bool { return f.waiting(t) == 1 })
				empty(t, deliveries)
				return
			}
			if d := take(t, deliveries); d.ID != ids[0] {
				t.Errorf("%s came", d.ID)
			}
			eventually(t, "it waits no more", func() bool { return f.waiting(t) == 1 })
		})
	}
}

// A message in doubt that was stored, and has failed an attempt before its outcome is known, waits for the next attempt.
func TestMessageInDoubtThatFailed(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queueOf(t, "orders", message.Policy{MinBackoff: time.Hour, MaxBackoff: time.Hour})
	var sent atomic.Int32
	decide := make(chan error, 1)
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		if sent.Add(1) > 1 {
			return f.trouble.Broker.PublishBatch(ctx, batch)
		}
		for _, err := range f.trouble.Broker.PublishBatch(ctx, batch) {
			if err != nil {
				t.Error(err)
			}
		}
		return []error{&broker.InDoubt{Err: errAway, Outcome: decide}}
	})
	ids := f.publishTx(t, to(q, "a"))
	f.relay(t)
	sub := f.subscribe(t, q, 1, long)
	if m := one(t, sub); m.ID != ids[0] {
		t.Fatalf("%+v", m)
	}
	eventually(t, "it is in doubt", func() bool { return errs.Is(f.CancelMessage(within(t), ids[0]), errs.FailedPrecondition) })
	sub.Nack([]message.Nack{{ID: ids[0], Reason: "not now"}})
	decide <- nil
	<-time.After(500 * time.Millisecond)
	m, err := f.GetMessage(within(t), ids[0])
	if err != nil || m.Attempts != 1 {
		t.Errorf("%+v %v", m, err)
	}
	if err := f.CancelMessage(within(t), ids[0]); err != nil {
		t.Errorf("it can be cancelled again: %v", err)
	}
}

// What is wrong with one row must not have the others of its batch sent again.
func TestOneRowDoesNotUndoABatch(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	deliveries := f.raw(t, "orders")
	f.schema(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF convert_from(OLD.body, 'UTF8') = 'bad' THEN RAISE EXCEPTION 'never'; END IF; RETURN OLD; END $$`)
	f.schema(t, `CREATE TRIGGER refuse BEFORE DELETE ON message_waiting FOR EACH ROW EXECUTE FUNCTION refuse()`)
	f.publishTx(t, to(q, "good 1"), to(q, "bad"), to(q, "good 2"))
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, headers, body)
		VALUES ('default', gen_random_uuid(), 'orders', now(), '{"a": 1}', 'no headers')`)
	f.relay(t)
	counts := map[string]int{}
	for counts["bad"] < 3 {
		counts[string(take(t, deliveries).Body)]++
	}
	if counts["good 1"] != 1 || counts["good 2"] != 1 || counts["no headers"] != 0 {
		t.Errorf("%v came", counts)
	}
	if d := f.dead(t, q, 1)[0]; string(d.Body) != "no headers" {
		t.Errorf("%+v", d)
	}
}

// A message to a topic and its copy for one queue, in the same batch, may end in the same row.
func TestTopicBesideItsCopy(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	full := name(t, "full")
	policy := message.Policy{MaxLength: 1, Bindings: []message.Binding{{Topic: "news", Pattern: "#"}}}
	if _, err := f.CreateQueue(within(t), full, policy); err != nil {
		t.Fatal(err)
	}
	q := f.queue(t, "orders")
	deliveries := f.raw(t, "orders")
	f.publish(t, full, "first")
	ids := f.publishTx(t, message.Publication{To: topic(t, "news", "a")})
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, body) VALUES ('default', $1, 'full', now(), '')`, ids[0])
	innocent := f.publishTx(t, to(q, "innocent"))
	f.relay(t)
	if d := take(t, deliveries); d.ID != innocent[0] {
		t.Errorf("%s came", d.ID)
	}
	empty(t, deliveries)
	eventually(t, "one copy waits for the full queue", func() bool {
		m, err := f.GetMessage(within(t), ids[0])
		return err == nil && m.Queue == full && f.waiting(t) == 1
	})
}

// A refusal is "full" only where a queue can be full.
func TestRefusalOfAQueueWithoutALimit(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	free := f.bind(t, "free", "news", "a")
	limited := name(t, "limited")
	policy := message.Policy{MaxLength: 10, Bindings: []message.Binding{{Topic: "news", Pattern: "b"}}}
	if _, err := f.CreateQueue(within(t), limited, policy); err != nil {
		t.Fatal(err)
	}
	f.trouble.publishes(func(_ context.Context, batch []broker.Publication) []error { return each(batch, broker.ErrFull) })
	for what, c := range map[string]struct {
		to   message.Destination
		want errs.Kind
	}{
		"a queue":              {message.ToQueue(free), errs.Unavailable},
		"one with a limit":     {message.ToQueue(limited), errs.ResourceExhausted},
		"one that is gone":     {message.ToQueue(name(t, "gone")), errs.NotFound},
		"a topic":              {topic(t, "news", "a"), errs.Unavailable},
		"a topic of a limited": {topic(t, "news", "b"), errs.ResourceExhausted},
	} {
		if _, err := f.Publish(within(t), message.Publication{To: c.to}); !errs.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if r := f.PublishBatch(within(t), []message.Publication{{To: c.to}}); !errs.Is(r[0].Err, c.want) {
			t.Errorf("%s in a batch: %v", what, r[0].Err)
		}
	}
}
