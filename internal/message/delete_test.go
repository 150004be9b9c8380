package message_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// full creates a queue with many waiting messages, dead letters and keys, and makes statements that delete over 1,000 rows fail.
func (f fixture) full(t *testing.T, s string, n int) message.QueueName {
	t.Helper()
	q := f.queue(t, s)
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, body)
		SELECT 'default', gen_random_uuid(), $1, now() + interval '1 hour', 'x' FROM generate_series(1, $2) i`, s, n)
	f.letters(t, q, n/10)
	f.exec(t, `INSERT INTO message_keys SELECT 'default', $1, i, gen_random_uuid(), now() FROM generate_series(1, $2::int) i`, s, n/10)
	f.schema(t, `
		CREATE FUNCTION bounded() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF (SELECT count(*) > 1000 FROM gone) THEN RAISE 'too many rows'; END IF;
			RETURN NULL;
		END $$;
		CREATE TRIGGER bounded AFTER DELETE ON message_waiting REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION bounded();
		CREATE TRIGGER bounded AFTER DELETE ON dead_letters REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION bounded();
		CREATE TRIGGER bounded AFTER DELETE ON message_keys REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION bounded();`)
	return q
}

// beside counts the rows that refer to a queue.
func (f fixture) beside(t *testing.T, q message.QueueName) int {
	t.Helper()
	return f.count(t, `SELECT (SELECT count(*) FROM message_waiting WHERE queue = $1) + (SELECT count(*) FROM dead_letters WHERE queue = $1)
		+ (SELECT count(*) FROM message_keys WHERE destination = $1)`, q.String())
}

// A large queue is gone at once, and its other rows are removed in small steps, even if processes end between them. Until
// then its name is not free, and nothing of it is visible.
func TestDeleteLargeQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.full(t, "large", atFullLength(50_000, 10_000))
	receipt, err := f.Publish(within(t), message.Publication{To: message.ToQueue(q), Delay: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	id := receipt.ID
	letter := f.letters(t, q, 1)[0]
	op, _ := f.redrive(t, q, all, 1)

	// The first process ends in its first steps: one of the rows that it reaches is locked.
	tx, err := pgtest.Owner(t, f.url).Begin(within(t))
	if err == nil {
		_, err = tx.Exec(within(t), `SELECT FROM message_waiting WHERE id = $1::text::uuid FOR UPDATE`, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithTimeout(within(t), 3*time.Second)
	defer kill()
	if err := f.DeleteQueue(ctx, q); err != nil && !errs.Is(err, errs.DeadlineExceeded) && !errs.Is(err, errs.Unavailable) {
		t.Fatal(err)
	}
	if err := tx.Rollback(within(t)); err != nil {
		t.Fatal(err)
	}
	if n := f.beside(t, q); n == 0 {
		t.Fatal("nothing is left for the others")
	}
	for what, err := range map[string]error{
		"GetQueue":      second(f.GetQueue(within(t), q)),
		"DeleteQueue":   f.DeleteQueue(within(t), q),
		"GetMessage":    second(f.GetMessage(within(t), id)),
		"CancelMessage": f.CancelMessage(within(t), id),
		"GetDeadLetter": second(f.GetDeadLetter(within(t), letter)),
	} {
		if !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := f.CreateQueue(within(t), q, message.Policy{}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("another one of that name: %v", err)
	}
	// A running redrive puts nothing back.
	f.exec(t, `UPDATE dead_letter_operations SET next_due_at = NULL`)
	f.work(t)
	if done := f.operation(t, op.ID); done.State != message.Done || done.Skipped != done.Total || done.Total < int64(atFullLength(5000, 1000)) {
		t.Errorf("the redrive is %+v", done)
	}

	f.exec(t, `UPDATE queue_intents SET due_at = now()`) // As if its lease were over.
	other := f.process(t, message.Limits{})
	run(t, other.Relay)
	eventually(t, "nothing is left", func() bool { return f.beside(t, q) == 0 })
	eventually(t, "the name is free", func() bool {
		_, err := f.CreateQueue(within(t), q, message.Policy{})
		return err == nil
	})
	f.holds(t, q, 0, 0)
}

// recorded is a broker that records by what a queue leaves it.
type recorded struct {
	broker.Broker
	calls []string
}

func (b *recorded) Unbind(ctx context.Context, queue string, bindings ...broker.Binding) error {
	for _, binding := range bindings {
		b.calls = append(b.calls, "unbind "+binding.Pattern)
	}
	return b.Broker.Unbind(ctx, queue, bindings...)
}

func (b *recorded) Delete(ctx context.Context, queue string) error {
	b.calls = append(b.calls, "delete")
	return b.Broker.Delete(ctx, queue)
}

// A queue is unbound before it is deleted, since a message on its way to one that is being deleted may cost the connection.
func TestDeletedQueueIsUnboundFirst(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	b := &recorded{Broker: f.broker}
	f.broker = b
	f.Service = f.process(t, message.Limits{})
	q := name(t, "bound")
	if _, err := f.CreateQueue(within(t), q, message.Policy{Bindings: []message.Binding{{Topic: "news", Pattern: "a"}, {Topic: "news", Pattern: "b"}}}); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(b.calls, ", "); got != "unbind a, unbind b, delete" {
		t.Errorf("the calls were %s", got)
	}
}

// A process that was stopped while it deleted a queue does nothing to a later one of that name.
func TestDeleteComesTooLate(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 3)
	if done, err := f.ClearLate(within(t), q); !done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	f.holds(t, q, 3, 0)
}

// While a queue is being removed, the tenant's quota counts what is left of it.
func TestUsageOfAQueueThatGoes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.full(t, "large", 3000)
	run(t, f.Relay)
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is used", func() bool {
		return f.count(t, `SELECT sum(n) FROM (SELECT tenant, n FROM tenant_usage UNION ALL SELECT tenant, n FROM tenant_usage_deltas) AS u
			WHERE tenant = $1`, auth.DefaultTenant) == 0
	})
}

// When RemoveTenant reports done, nothing of the tenant is left on the broker, whichever process began to remove it.
func TestRemoveTenant(t *testing.T) {
	t.Parallel()
	f, b := withWatched(t)
	acme := as(t, "acme")
	for _, queue := range []string{"a", "b", "c"} {
		f.queueAs(t, "acme", queue, message.Policy{})
	}
	kept := f.queue(t, "a")
	b.fail = errBrokerAway
	if err := f.DeleteQueue(acme, name(t, "a")); !errs.Is(err, errs.Unavailable) {
		t.Fatal(err)
	}
	if done, err := f.RemoveTenant(acme); done || !errs.Is(err, errs.Unavailable) {
		t.Errorf("while the broker is away: %v, %v", done, err)
	}
	b.fail = nil
	if done, err := f.RemoveTenant(acme); done || err != nil {
		t.Errorf("while a queue is left to somebody else: %v, %v", done, err)
	}
	f.exec(t, `UPDATE queue_intents SET due_at = now(), again = false`) // It would be looked at once more much later.
	run(t, f.Relay)
	eventually(t, "all is removed", func() bool { done, err := f.RemoveTenant(acme); return done && err == nil })
	for _, queue := range []string{"a", "b", "c"} {
		if f.reaches(t, broker.Address{Queue: "acme." + queue}) {
			t.Errorf("the broker has the queue %s", queue)
		}
	}
	if _, err := f.GetQueue(within(t), kept); err != nil || !f.reaches(t, onBroker("a")) {
		t.Errorf("another tenant's: %v", err)
	}
}

// A process that read a queue before it was deleted declares it afterwards, and publishes to it. A tenant's name is not free before
// that is gone as well, so its next owner has nothing of it.
func TestTenantThatIsMadeAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	acme := as(t, "acme")
	q := f.queueAs(t, "acme", "a", message.Policy{})
	if err := f.DeleteQueue(acme, q); err != nil {
		t.Fatal(err)
	}
	if err := f.broker.Declare(within(t), broker.Queue{Name: "acme.a"}); err != nil {
		t.Fatal(err)
	}
	late := broker.Message{ID: uuid.NewString(), Body: []byte("of the one before")}
	if err := f.broker.Publish(within(t), broker.Address{Queue: "acme.a"}, late); err != nil {
		t.Fatal(err)
	}
	if done, err := f.RemoveTenant(acme); done || err != nil {
		t.Fatalf("before the second look: %v, %v", done, err)
	}
	f.exec(t, `UPDATE queue_intents SET due_at = now()`)
	run(t, f.Relay)
	eventually(t, "all is removed", func() bool { done, err := f.RemoveTenant(acme); return done && err == nil })
	f.queueAs(t, "acme", "a", message.Policy{})
	if n, err := f.broker.Ready(within(t), "acme.a"); n != 0 || err != nil {
		t.Errorf("the new queue has %d messages of the one before, %v", n, err)
	}
}

// A fresh database on a RabbitMQ that another one has used, and uses, has a queue of its own by each name, and topics.
func TestDatabasesOnOneRabbitMQ(t *testing.T) {
	t.Parallel()
	before, fresh := newRabbitFixture(t), newRabbitFixture(t)
	q, topic := name(t, "q-"+uuid.NewString()), "t-"+uuid.NewString()
	for pattern, f := range map[string]fixture{"#": before, "known": fresh} {
		if _, err := f.CreateQueue(within(t), q, message.Policy{Bindings: []message.Binding{{Topic: topic, Pattern: pattern}}}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = f.broker.Delete(ctx, onBroker(q.String()).Queue)
		})
	}
	before.publish(t, q, "of the one before")
	to, err := message.ToTopic(topic, "new")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Publish(within(t), message.Publication{To: to}); !errs.Is(err, errs.NotFound) {
		t.Errorf("a message that only the other's binding matches: %v", err)
	}
	nothing(t, fresh.subscribe(t, q, 1, long))
	if m := one(t, before.subscribe(t, q, 1, long)); string(m.Body) != "of the one before" {
		t.Errorf("%q came", m.Body)
	}
}

// A tenant's own quota also applies to what the service does for it.
func TestQuotaOfWhatTheServiceDoes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.Service = f.process(t, message.Limits{Queues: 1, Waiting: 1})
	f.exec(t, `INSERT INTO tenant_usage (tenant, resource, quota) VALUES ('acme', 'waiting_messages', 3), ('acme', 'queues', 2)`)
	publish := func(tenant string) error {
		return f.db.InTx(as(t, tenant), func(tx *pg.Tx) error {
			_, err := f.PublishTx(as(t, tenant), tx, message.Publication{To: message.ToQueue(name(t, "q"))})
			return err
		})
	}
	for tenant, most := range map[string]int{"acme": 3, "other": 1} {
		f.queueAs(t, tenant, "q", message.Policy{})
		for range most {
			if err := publish(tenant); err != nil {
				t.Errorf("%s: %v", tenant, err)
			}
		}
		if err := publish(tenant); !errs.Is(err, errs.ResourceExhausted) {
			t.Errorf("%s, above its quota: %v", tenant, err)
		}
	}
	if err := f.EnsureQueue(as(t, "acme"), name(t, "second")); err != nil {
		t.Error(err)
	}
	if err := f.EnsureQueue(as(t, "acme"), name(t, "third")); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("a queue above the quota: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
