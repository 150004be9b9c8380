package message_test

import (
	"cmp"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/broker"
	"plinth/internal/broker/amqp"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// onEveryBroker runs a test on the broker in PostgreSQL and on RabbitMQ.
func onEveryBroker(t *testing.T, test func(t *testing.T, f fixture)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newFixture(t, false))
	})
	t.Run("rabbitmq", func(t *testing.T) {
		t.Parallel()
		test(t, newRabbitFixture(t))
	})
}

// rabbitURL returns the URL of the RabbitMQ that tests use.
func rabbitURL() string { return cmp.Or(os.Getenv("AMQP_URL"), "amqp://guest:guest@127.0.0.1:5672/") }

// newRabbitFixture is a fixture on RabbitMQ. Without one the test is skipped, except under CI.
func newRabbitFixture(t *testing.T) fixture {
	t.Helper()
	url := rabbitURL()
	conn, err := amqp091.Dial(url)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no RabbitMQ: %v", err)
		}
		t.Skipf("no RabbitMQ: %v", err)
	}
	_ = conn.Close()
	f := newFixture(t, false)
	b, err := amqp.New(url, f.log)
	if err != nil {
		t.Fatal(err)
	}
	run(t, b.Run)
	t.Cleanup(func() { f.removeQueues(t) })
	f.broker = broker.Named(b, func(ctx context.Context) (uuid.UUID, error) { return pg.Identity(ctx, f.system) })
	f.Service = f.process(t, message.Limits{})
	run(t, f.Run)
	return f
}

// removeQueues removes from RabbitMQ, which the tests have not started, what the database has of queues.
func (f fixture) removeQueues(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rows, err := f.owner.Query(ctx, `SELECT tenant || '.' || name FROM queues`)
	if err != nil {
		t.Error(err)
		return
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		err = errors.Join(err, f.broker.Delete(ctx, name))
	}
	if err != nil {
		t.Error(err)
	}
}

// once creates a queue of a unique name whose messages are tried once; it is deleted when the test ends.
func (f fixture) once(t *testing.T) message.QueueName {
	t.Helper()
	q := f.queueOf(t, "once-"+uuid.NewString(), message.Policy{MaxAttempts: 1})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = f.broker.Delete(ctx, "default."+q.String())
	})
	return q
}

// wantFirst expects that many messages of the queue, each in its first attempt, and no dead letter.
func (f fixture) wantFirst(t *testing.T, q message.QueueName, sub *message.Subscription, n int) {
	t.Helper()
	for got := 0; got < n; {
		for _, m := range next(t, sub) {
			if m.Attempt != 1 {
				t.Errorf("%q comes with the attempt %d, want 1", m.Body, m.Attempt)
			}
			sub.Ack([]string{m.ID})
			got++
		}
	}
	if letters, _, err := f.ListDeadLetters(within(t), q, message.Filter{}, 10, ""); err != nil || len(letters) != 0 {
		t.Errorf("dead letters: %+v %v", letters, err)
	}
}

// A queue is paused while one message is outstanding. Its depth is true, and what nobody saw does not count as tried.
func TestPauseCountsNothing(t *testing.T) {
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		q := f.once(t)
		held := f.publish(t, q, "held")
		sub := f.subscribe(t, q, 10, long)
		if m := one(t, sub); m.ID != held {
			t.Fatalf("%+v", m)
		}
		for range 3 {
			f.publish(t, q, "unseen")
		}
		for range 3 { // Each round would count once more.
			f.depth(t, q, 0)
			f.pause(t, q)
			f.depth(t, q, 3)
			f.resume(t, q)
		}
		f.wantFirst(t, q, sub, 3)
		sub.Ack([]string{held})
		f.depth(t, q, 0)
	})
}

// A consumer that reads nothing, and goes away, has tried nothing.
func TestConsumerThatReadsNothing(t *testing.T) {
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		const messages = 60
		q := f.once(t)
		for range messages {
			f.publish(t, q, "unseen")
		}
		for range 2 {
			sub := f.subscribe(t, q, 100, long)
			f.depth(t, q, 0)
			sub.Close()
			f.depth(t, q, messages)
		}
		f.wantFirst(t, q, f.subscribe(t, q, 100, long), messages)
	})
}

// What could not be sent to a consumer, or was outstanding when the service ended the stream, was not tried either. What a
// consumer had when it went away was.
func TestWhatCountsAsTried(t *testing.T) {
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		q := f.once(t)
		f.publish(t, q, "a")
		sub := f.subscribe(t, q, 10, long)
		sub.Undelivered(next(t, sub))
		sub.Close()
		sub = f.subscribe(t, q, 10, long)
		if m := one(t, sub); m.Attempt != 1 {
			t.Errorf("what was not sent comes with the attempt %d", m.Attempt)
		}
		sub.Stopping()
		sub.Close()
		sub = f.subscribe(t, q, 10, long)
		if m := one(t, sub); m.Attempt != 1 {
			t.Errorf("what the end of the service cut short comes with the attempt %d", m.Attempt)
		}
		sub.Close()
		f.depth(t, q, 1)
		nothing(t, f.subscribe(t, q, 10, long))
		f.dead(t, q, 1)
		var left int
		if err := f.system.QueryRow(within(t), `SELECT count(*) FROM message_uncounted`).Scan(&left); err != nil || left != 0 {
			t.Errorf("%d notes are left of a message that is settled, %v", left, err)
		}
	})
}

// A lease begins when the service has the message, whether or not the consumer reads: another consumer gets all of it.
func TestConsumerThatStopsReading(t *testing.T) {
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		const messages = 40
		q := f.once(t)
		for range messages {
			f.publish(t, q, "unseen")
		}
		f.subscribe(t, q, 100, 500*time.Millisecond) // Nobody calls Next.
		f.depth(t, q, 0)
		f.wantFirst(t, q, f.subscribe(t, q, 100, long), messages)
	})
}

// An expired lease goes to another consumer, if there is one.
func TestExpiredLeaseGoesElsewhere(t *testing.T) {
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		q := f.queueOf(t, "shared-"+uuid.NewString(), message.Policy{})
		t.Cleanup(func() { _ = f.broker.Delete(context.Background(), "default."+q.String()) })
		const deadline = 300 * time.Millisecond
		stuck, other := f.subscribe(t, q, 10, deadline), f.subscribe(t, q, 10, long)
		seen := 0
		for seen < 5 { // The broker chooses who gets a message first.
			id := f.publish(t, q, "a")
			first := <-either(t, stuck, other)
			if first.sub == other {
				other.Ack([]string{id})
				continue
			}
			if m := one(t, other); m.ID != id || m.Attempt != 2 {
				t.Errorf("%+v", m)
			}
			other.Ack([]string{id})
			seen++
		}
	})
}

type got struct {
	sub *message.Subscription
	id  string
}

// either returns the first message that any of the subscriptions has.
func either(t *testing.T, subs ...*message.Subscription) <-chan got {
	first := make(chan got, len(subs))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	done := make(chan struct{}, len(subs))
	for _, sub := range subs {
		go func() {
			if batch, err := sub.Next(ctx); err == nil {
				first <- got{sub, batch[0].ID}
				cancel()
			}
			done <- struct{}{}
		}()
	}
	result := make(chan got, 1)
	go func() {
		for range subs {
			<-done
		}
		cancel()
		result <- <-first
	}()
	return result
}

// A handler that returns nil because its time is over, or because its process stops, has not handled the message, and a
// process that is told to stop counts nothing.
func TestHandlerThatGivesUp(t *testing.T) {
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		q := f.once(t)
		entered := make(chan struct{}, 10)
		waits := func(ctx context.Context, _ message.Message) error {
			entered <- struct{}{}
			<-ctx.Done()
			return nil
		}
		stop := f.worker(t, time.Millisecond, message.HandleBytes(q.String(), waits))
		f.publish(t, q, "cut off")
		<-entered
		stop()
		f.depth(t, q, 1)
		sub := f.subscribe(t, q, 1, long)
		f.wantFirst(t, q, sub, 1)
		sub.Close()

		f = f.another(t)
		stop = f.worker(t, time.Second, message.HandleBytes(q.String(), waits, message.Timeout(50*time.Millisecond)))
		id := f.publish(t, q, "late")
		<-entered
		if d := f.dead(t, q, 1)[0]; d.MessageID != id {
			t.Errorf("%+v", d)
		}
		stop()
	})
}
