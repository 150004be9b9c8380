package message_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// watched is a broker whose changes of queues can be watched and made to fail.
type watched struct {
	broker.Broker
	before func() // called before each of them
	fail   error  // is returned by all of them
	late   error  // likewise, after they were done
}

func (b *watched) call(do func() error) error {
	b.before()
	if b.fail != nil {
		return b.fail
	}
	return errors.Join(do(), b.late)
}

func (b *watched) Declare(ctx context.Context, q broker.Queue) error {
	return b.call(func() error { return b.Broker.Declare(ctx, q) })
}

func (b *watched) Delete(ctx context.Context, q string) error {
	return b.call(func() error { return b.Broker.Delete(ctx, q) })
}

func (b *watched) Purge(ctx context.Context, q string) (n int64, err error) {
	err = b.call(func() error { n, err = b.Broker.Purge(ctx, q); return err })
	return n, err
}

func (b *watched) Bind(ctx context.Context, q string, bindings ...broker.Binding) error {
	return b.call(func() error { return b.Broker.Bind(ctx, q, bindings...) })
}

func (b *watched) Unbind(ctx context.Context, q string, bindings ...broker.Binding) error {
	return b.call(func() error { return b.Broker.Unbind(ctx, q, bindings...) })
}

// withWatched returns the fixture over a broker that is watched, in a service of its own.
func withWatched(t *testing.T) (fixture, *watched) {
	t.Helper()
	f := newFixture(t, false)
	b := &watched{Broker: f.broker, before: func() {}}
	f.broker = b
	f.Service = f.process(t, message.Limits{})
	return f, b
}

var errBrokerAway = errs.New(errs.Unavailable, "away")

func (f fixture) boundTopics(t *testing.T) (topics string) {
	t.Helper()
	if err := f.db.QueryRow(within(t), `SELECT coalesce(string_agg(topic, ' ' ORDER BY topic), '') FROM queue_bindings`).Scan(&topics); err != nil {
		t.Fatal(err)
	}
	return topics
}

// bindTo binds the queue to these topics, and to no others.
func (f fixture) bindTo(t *testing.T, q message.QueueName, topics ...string) error {
	t.Helper()
	_, err := f.UpdateQueue(within(t), q, func(p *message.Policy) {
		p.Bindings = nil
		for _, topic := range topics {
			p.Bindings = append(p.Bindings, message.Binding{Topic: topic, Pattern: "#"})
		}
	})
	return err
}

// leads reports whether a topic is bound to a queue on the broker.
func (f fixture) leads(t *testing.T, topic string) bool {
	t.Helper()
	return f.reaches(t, broker.Address{Topic: "default." + topic})
}

func (f fixture) reaches(t *testing.T, to broker.Address) bool {
	t.Helper()
	err := f.broker.Publish(within(t), to, broker.Message{ID: uuid.Must(uuid.NewV7()).String()})
	if err != nil && !errors.Is(err, broker.ErrNoQueue) {
		t.Fatal(err)
	}
	return err == nil
}

func onBroker(queue string) broker.Address { return broker.Address{Queue: "default." + queue} }

// No connection is held while the broker is called, and the change is recorded as an intent: if a process dies there, another
// one continues.
func TestBrokerIsCalledOutsideOfTransactions(t *testing.T) {
	t.Parallel()
	f, b := withWatched(t)
	calls := 0
	b.before = func() {
		calls++
		if n := f.count(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'`); n > 0 {
			t.Errorf("call %d of the broker: %d connections are held", calls, n)
		}
	}
	written := func() {
		calls++
		if n := f.count(t, `SELECT count(*) FROM queue_intents`); n != 1 {
			t.Errorf("call %d of the broker: %d intents are written down", calls, n)
		}
	}
	held := b.before
	q := name(t, "orders")
	b.before = func() { held(); written() }
	if _, err := f.CreateQueue(within(t), q, message.Policy{Bindings: []message.Binding{{Topic: "a", Pattern: "#"}}}); err != nil {
		t.Fatal(err)
	}
	if err := f.bindTo(t, q, "b"); err != nil {
		t.Fatal(err)
	}
	if f.leads(t, "a") || !f.leads(t, "b") {
		t.Error("the broker did not follow")
	}
	b.before = held
	if _, err := f.PurgeQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if err := f.EnsureQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	b.before = func() { held(); written() }
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if calls < 10 {
		t.Errorf("%d calls", calls)
	}
}

func TestCreateQueueWithoutBroker(t *testing.T) {
	t.Parallel()
	f, b := withWatched(t)
	b.late = errBrokerAway // The broker has the queue, but the service does not know that.
	q := name(t, "orders")
	if _, err := f.CreateQueue(within(t), q, message.Policy{}); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	if page, _, err := f.ListQueues(within(t), 0, ""); len(page) != 0 || err != nil {
		t.Errorf("%v %v is left", page, err)
	}
	if !f.reaches(t, onBroker("orders")) {
		t.Error("the broker has no queue, so this tests nothing")
	}
	b.late = nil
	f.relay(t)
	eventually(t, "the broker has no queue that nobody knows", func() bool { return !f.reaches(t, onBroker("orders")) })
	eventually(t, "the name is free", func() bool { _, err := f.CreateQueue(within(t), q, message.Policy{}); return err == nil })
}

func TestBindingsFollowOnceTheBrokerIsBack(t *testing.T) {
	t.Parallel()
	f, b := withWatched(t)
	q := f.queue(t, "orders")
	if err := f.bindTo(t, q, "a", "b"); err != nil {
		t.Fatal(err)
	}
	b.fail = errBrokerAway
	if err := f.bindTo(t, q, "b", "c"); !errs.Is(err, errs.Unavailable) || f.boundTopics(t) != "b c" {
		t.Errorf("%v, the table has %q", err, f.boundTopics(t))
	}
	if err := f.bindTo(t, q, "c", "d"); !errs.Is(err, errs.Unavailable) || f.boundTopics(t) != "c d" {
		t.Errorf("%v, the table has %q", err, f.boundTopics(t))
	}
	b.fail = nil
	f.exec(t, `UPDATE queue_intents SET due_at = now()`)
	f.relay(t)
	eventually(t, "the broker follows", func() bool {
		return !f.leads(t, "a") && !f.leads(t, "b") && f.leads(t, "c") && f.leads(t, "d")
	})
	if err := f.bindTo(t, q); err != nil || f.boundTopics(t) != "" || f.leads(t, "c") {
		t.Errorf("cleared: %v, the table has %q", err, f.boundTopics(t))
	}
}

// A name is free again once the broker has removed the queue: messages of the old one never show up in a new one.
func TestDeleteQueueWithoutBroker(t *testing.T) {
	t.Parallel()
	f, b := withWatched(t)
	q := f.queue(t, "orders")
	f.publish(t, q, "old")
	b.fail = errBrokerAway
	if err := f.DeleteQueue(within(t), q); !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
	b.fail = nil
	if _, err := f.GetQueue(within(t), q); !errs.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
	if _, err := f.CreateQueue(within(t), q, message.Policy{}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
	f.exec(t, `UPDATE queue_intents SET due_at = now()`)
	f.relay(t)
	eventually(t, "the name is free", func() bool { _, err := f.CreateQueue(within(t), q, message.Policy{}); return err == nil })
	nothing(t, f.subscribe(t, q, 10, long))
}

// A process that read a queue before it was deleted may declare it afterwards. A second look removes it.
func TestQueueThatIsDeclaredTooLateIsRemoved(t *testing.T) {
	t.Parallel()
	f, _ := withWatched(t)
	q := f.queue(t, "orders")
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if err := f.broker.Declare(within(t), broker.Queue{Name: "default.orders"}); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `UPDATE queue_intents SET due_at = now()`)
	f.relay(t)
	eventually(t, "the queue is removed", func() bool { return !f.reaches(t, onBroker("orders")) })
	eventually(t, "nothing is left to do", func() bool { return f.count(t, `SELECT count(*) FROM queue_intents`) == 0 })
}

// A second look does nothing to a queue that was created meanwhile.
func TestSecondLookSparesANewQueue(t *testing.T) {
	t.Parallel()
	f, _ := withWatched(t)
	q := f.queue(t, "orders")
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	f.queue(t, "orders")
	id := f.publish(t, q, "new")
	f.exec(t, `UPDATE queue_intents SET due_at = now()`)
	f.relay(t)
	eventually(t, "nothing is left to do", func() bool { return f.count(t, `SELECT count(*) FROM queue_intents`) == 0 })
	if m := one(t, f.subscribe(t, q, 10, long)); m.ID != id {
		t.Errorf("%s came", m.ID)
	}
}
