package message_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

func TestRelayWithABrokerThatIsAway(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	deliveries := f.raw(t, "orders")
	var asked atomic.Int32
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		asked.Add(1)
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	f.trouble.away.Store(true)
	f.relay(t)
	ids := f.publishTx(t, to(q, "a"), to(q, "b"))
	f.line(t, "waiting messages cannot be worked off, trying again")
	empty(t, deliveries)
	if lines := f.logs.FilterMessage("waiting messages cannot be worked off, trying again").Len(); lines > 20 {
		t.Errorf("%d attempts in a moment", lines)
	}
	if m, err := f.GetMessage(within(t), ids[0]); err != nil || m.Attempts != 0 {
		t.Errorf("%+v %v", m, err)
	}
	f.trouble.away.Store(false)
	if got := []string{take(t, deliveries).ID, take(t, deliveries).ID}; !slices.Equal(got, ids) {
		t.Errorf("%v came, want %v", got, ids)
	}
	if d := take1(deliveries); d != nil {
		t.Errorf("%s came twice", d.ID)
	}
	f.drained(t)
}

func take1(deliveries <-chan broker.Delivery) *broker.Delivery {
	select {
	case d := <-deliveries:
		return &d
	case <-time.After(300 * time.Millisecond):
		return nil
	}
}

// TestRelayWithoutConfirms loses the broker's answers: what was not confirmed must not be deleted.
func TestRelayWithoutConfirms(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	deliveries := f.raw(t, "orders")
	var calls atomic.Int32
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		if calls.Add(1) > 1 {
			return f.trouble.Broker.PublishBatch(ctx, batch)
		}
		outcomes := each(batch, nil)
		for i, p := range batch {
			if string(p.Body) == "bad" {
				outcomes[i] = errAway
				continue
			}
			outcomes[i] = f.trouble.Broker.Publish(ctx, p.To, p.Message)
		}
		return outcomes
	})
	ids := f.publishTx(t, to(q, "good"), to(q, "bad"), to(q, "good"))
	f.relay(t)
	var got []string
	for range 3 {
		got = append(got, take(t, deliveries).ID)
	}
	empty(t, deliveries)
	slices.Sort(got)
	if !slices.Equal(got, ids) { // UUIDv7 are in their order already.
		t.Errorf("%v came, want %v", got, ids)
	}
	f.drained(t)
}

// TestRelayThatDies cuts the relay's connection between the confirm and the commit.
func TestRelayThatDies(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	deliveries := f.raw(t, "orders")
	var calls atomic.Int32
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		outcomes := f.trouble.Broker.PublishBatch(ctx, batch)
		if calls.Add(1) == 1 {
			if _, err := f.owner.Exec(within(t), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND state = 'idle in transaction' AND query LIKE '%FROM message_waiting%'`); err != nil {
				t.Error(err)
			}
		}
		return outcomes
	})
	ids := f.publishTx(t, to(q, "a"))
	f.relay(t)
	for range 2 { // Delivered at least once, here twice.
		if d := take(t, deliveries); d.ID != ids[0] {
			t.Errorf("%s came", d.ID)
		}
	}
	empty(t, deliveries)
	f.drained(t)
}

func TestRelayDeclaresWhatTheTableKnows(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	known, gone := f.queue(t, "known"), f.queue(t, "gone")
	ids := f.publishTx(t, to(gone, "a"), to(known, "b"), to(gone, "c"))
	for _, q := range []string{"known", "gone"} {
		if err := f.broker.Delete(within(t), "default."+q); err != nil {
			t.Fatal(err)
		}
	}
	f.exec(t, `DELETE FROM queues WHERE name = 'gone'`) // As if its rows were inserted after it was deleted.
	f.relay(t)
	f.drained(t)
	if d := take(t, f.raw(t, "known")); d.ID != ids[1] {
		t.Errorf("%s came", d.ID)
	}
	if f.logs.FilterMessage("message dropped with its queue, which was deleted").Len() != 2 {
		t.Error("the messages of a queue that is gone are not in the log")
	}
}

const manyRows = 4000 // More than a relay takes at a time, with all its lanes.

// fill inserts manyRows waiting messages for a queue.
func (f fixture) fill(t *testing.T, queue string) {
	t.Helper()
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, body)
		SELECT 'default', gen_random_uuid(), $1, now(), '' FROM generate_series(1, $2)`, queue, manyRows)
}

func TestRelayGoesOnBesideAFullQueue(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	full, other := name(t, "full"), f.queue(t, "other")
	if _, err := f.CreateQueue(within(t), full, message.Policy{MaxLength: 1}); err != nil {
		t.Fatal(err)
	}
	f.publish(t, full, "first")
	if _, err := f.Publish(within(t), to(full, "second")); !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(err.Error(), `"full"`) {
		t.Errorf("%v", err)
	}
	f.fill(t, "full")
	ids := f.publishTx(t, to(other, "goes on"))
	stop := f.relay(t)
	if d := take(t, f.raw(t, "other")); d.ID != ids[0] {
		t.Errorf("%s came", d.ID)
	}
	stop()
	if n := f.waiting(t); n != manyRows {
		t.Errorf("%d wait", n)
	}
	f.exec(t, `DELETE FROM message_waiting WHERE id <> (SELECT min(id::text)::uuid FROM message_waiting)`)
	f.relay(t)
	deliveries := f.raw(t, "full")
	take(t, deliveries)
	take(t, deliveries)
	f.drained(t)
}

// TestRelayGoesOnBesideAQueueThatIsStuck has more messages than a relay takes at a time, which the broker never confirms.
func TestRelayGoesOnBesideAQueueThatIsStuck(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	f.queue(t, "stuck")
	other := f.queue(t, "other")
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		outcomes := f.trouble.Broker.PublishBatch(ctx, batch)
		for i, p := range batch {
			if p.To.Queue == "default.stuck" {
				outcomes[i] = errAway
			}
		}
		return outcomes
	})
	f.fill(t, "stuck")
	ids := f.publishTx(t, to(other, "goes on"))
	f.relay(t)
	if d := take(t, f.raw(t, "other")); d.ID != ids[0] {
		t.Errorf("%s came", d.ID)
	}
}

func TestRelayWithWhatTheBrokerRefuses(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	deliveries := f.raw(t, "orders")
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		outcomes := each(batch, nil)
		for i, p := range batch {
			if string(p.Body) == "bad" {
				outcomes[i] = errs.New(errs.InvalidArgument, "never this one")
				continue
			}
			outcomes[i] = f.trouble.Broker.Publish(ctx, p.To, p.Message)
		}
		return outcomes
	})
	ids := f.publishTx(t, to(q, "good"), to(q, "bad"), to(q, "good"))
	f.relay(t)
	take(t, deliveries)
	take(t, deliveries)
	f.drained(t)
	var id, reason, body string
	err := f.db.QueryRow(within(t), `SELECT message_id::text, reason, convert_from(body, 'UTF8') FROM dead_letters`).Scan(&id, &reason, &body)
	if err != nil || id != ids[1] || reason != "never this one" || body != "bad" {
		t.Errorf("dead letter of %s: %q %q %v", id, reason, body, err)
	}
}

func TestRelayOfATopicWithAFullQueue(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	for queue, length := range map[string]int64{"full": 1, "free": 0} {
		p := message.Policy{MaxLength: length, Bindings: []message.Binding{{Topic: "news", Pattern: "#"}}}
		if _, err := f.CreateQueue(within(t), name(t, queue), p); err != nil {
			t.Fatal(err)
		}
	}
	f.publish(t, name(t, "full"), "first")
	p := message.Publication{To: topic(t, "news", "a.b")}
	if _, err := f.Publish(within(t), p); !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(err.Error(), "news") {
		t.Errorf("%v", err)
	}
	free := f.raw(t, "free")
	take(t, free)
	ids := f.publishTx(t, p)
	f.relay(t)
	for range 2 { // First through the topic, then through the queue.
		if d := take(t, free); d.ID != ids[0] {
			t.Errorf("%s came", d.ID)
		}
	}
	eventually(t, "the full queue's copy waits alone", func() bool {
		m, err := f.GetMessage(within(t), ids[0])
		return err == nil && m.Queue.String() == "full" && f.waiting(t) == 1
	})
	full := f.raw(t, "full")
	take(t, full)
	if d := take(t, full); d.ID != ids[0] {
		t.Errorf("%s came", d.ID)
	}
	empty(t, free)
}
