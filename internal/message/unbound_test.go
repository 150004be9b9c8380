package message_test

import (
	"context"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// bind creates a queue with a binding.
func (f fixture) bind(t *testing.T, queue, topic, pattern string) message.QueueName {
	t.Helper()
	q := name(t, queue)
	if _, err := f.CreateQueue(within(t), q, message.Policy{Bindings: []message.Binding{{Topic: topic, Pattern: pattern}}}); err != nil {
		t.Fatal(err)
	}
	return q
}

// unboundTimes blocks until a message found no binding so many times.
func (f fixture) unboundTimes(t *testing.T, id string, times int) {
	t.Helper()
	eventually(t, "the message finds no binding", func() bool {
		var n int
		if err := f.system.QueryRow(within(t), `SELECT unbound FROM message_waiting WHERE id = $1`, id).Scan(&n); err != nil {
			t.Fatalf("the message is gone: %v", err)
		}
		return n >= times
	})
}

// A message that was answered waits on if nothing is bound to its topic when it is due: it can be seen and cancelled, and
// goes when a binding comes back. Others of its topic are not held up.
func TestTopicWithoutABinding(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q, other := f.bind(t, "orders", "news", "a.#"), f.bind(t, "others", "news", "b")
	ids := f.publishTx(t, message.Publication{To: topic(t, "news", "a.x")}, message.Publication{To: topic(t, "news", "a.y")},
		message.Publication{To: topic(t, "news", "b")})
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	f.relay(t)
	others := f.raw(t, "others")
	if d := take(t, others); d.ID != ids[2] {
		t.Errorf("%s came", d.ID)
	}
	f.unboundTimes(t, ids[0], 2)
	m, err := f.GetMessage(within(t), ids[0])
	if err != nil || m.Topic != "news" || m.RoutingKey != "a.x" || m.Reason == "" || m.Attempts != 0 {
		t.Errorf("%+v %v", m, err)
	}
	if err := f.CancelMessage(within(t), ids[1]); err != nil {
		t.Error(err)
	}
	// By then the next try is far off.
	f.exec(t, `UPDATE message_waiting SET due_at = now() + interval '10 minutes' WHERE unbound > 0`)
	delayed, err := f.Publish(within(t), message.Publication{To: topic(t, "news", "b"), Delay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.UpdateQueue(within(t), other, func(p *message.Policy) {
		p.Bindings = append(p.Bindings, message.Binding{Topic: "news", Pattern: "#.x"})
	}); err != nil {
		t.Fatal(err)
	}
	d := take(t, others)
	if d.ID != ids[0] || d.Attempt != 1 {
		t.Errorf("%s came, attempt %d", d.ID, d.Attempt)
	}
	if m, err := f.GetMessage(within(t), delayed.ID); err != nil || time.Until(m.DeliverAt) < 50*time.Minute {
		t.Errorf("a delayed message was touched: %+v %v", m, err)
	}
}

// Also where the whole topic has no binding any more, and where the last one goes while a queue is full or the broker
// refuses the message.
func TestTopicWithoutAnyBinding(t *testing.T) {
	t.Parallel()
	for what, outcome := range map[string]error{
		"unbound": nil, "full": broker.ErrFull, "refused": errs.New(errs.InvalidArgument, "never this one"),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newTroubled(t)
			q := f.bind(t, "orders", "news", "#")
			ids := f.publishTx(t, message.Publication{To: topic(t, "news", "a"), Body: []byte("kept")})
			unbind := func() {
				if err := f.DeleteQueue(within(t), q); err != nil {
					t.Error(err)
				}
			}
			if outcome == nil {
				unbind()
			}
			f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
				if outcome == nil {
					return f.trouble.Broker.PublishBatch(ctx, batch)
				}
				f.trouble.publishes(nil)
				unbind()
				return each(batch, outcome)
			})
			f.relay(t)
			f.unboundTimes(t, ids[0], 1)
			f.bind(t, "orders-again", "news", "#")
			if d := take(t, f.raw(t, "orders-again")); d.ID != ids[0] || string(d.Body) != "kept" {
				t.Errorf("%s came: %q", d.ID, d.Body)
			}
			f.drained(t)
		})
	}
}

// What the broker refuses of a topic becomes a dead letter of each queue that it leads to.
func TestTopicOfWhatTheBrokerRefuses(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	one, two := f.bind(t, "one", "news", "#"), f.bind(t, "two", "news", "a")
	f.trouble.publishes(func(_ context.Context, batch []broker.Publication) []error {
		return each(batch, errs.New(errs.InvalidArgument, "never this one"))
	})
	ids := f.publishTx(t, message.Publication{To: topic(t, "news", "a"), Body: []byte("bad")})
	f.relay(t)
	for _, q := range []message.QueueName{one, two} {
		if d := f.dead(t, q, 1)[0]; d.MessageID != ids[0] || string(d.Body) != "bad" || d.Reason != "never this one" {
			t.Errorf("%s: %+v", q, d)
		}
	}
	f.drained(t)
}

// Filters ignore the case of letters that only Unicode knows, whatever the collation of the database.
func TestFilterIgnoresCase(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueOf(t, "orders", message.Policy{MaxAttempts: 1})
	sub := f.subscribe(t, q, 10, long)
	for _, reason := range []string{"Grüße aus Köln", "ΟΔΥΣΣΕΥΣ", "ÉCOLE", "plain"} {
		id := f.publish(t, q, reason)
		one(t, sub)
		sub.Nack([]message.Nack{{ID: id, Reason: reason}})
	}
	f.dead(t, q, 4)
	for filter, want := range map[string]string{"GRÜßE": "Grüße aus Köln", "köLN": "Grüße aus Köln", "οδυσσευς": "ΟΔΥΣΣΕΥΣ", "école": "ÉCOLE", "PLAIN": "plain"} {
		letters, _, err := f.ListDeadLetters(within(t), q, message.Filter{Reason: filter}, 10, "")
		if err != nil || len(letters) != 1 || letters[0].Reason != want {
			t.Errorf("%s: %+v %v", filter, letters, err)
		}
	}
}
