package message_test

import (
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
)

// limited returns a fixture whose service has limits, and runs.
func limited(t *testing.T, limits message.Limits) fixture {
	t.Helper()
	f := newFixture(t, false)
	f.Service = f.process(t, limits)
	run(t, f.Run)
	return f
}

// refusedBy fails unless each way to publish is refused for a quota.
func (f fixture) refusedBy(t *testing.T, quota string, ways ...message.Publication) {
	t.Helper()
	eventually(t, "the quota is known to be used up", func() bool { return f.one(t, ways[0]).Err != nil })
	for _, p := range ways {
		for _, r := range append(f.PublishBatch(within(t), []message.Publication{p}), f.one(t, p)) {
			if !errs.Is(r.Err, errs.ResourceExhausted) || !strings.Contains(r.Err.Error(), quota) {
				t.Errorf("%+v above the quota %s: %v", p, quota, r.Err)
			}
		}
	}
}

func (f fixture) one(t *testing.T, p message.Publication) message.Result {
	receipt, err := f.Publish(within(t), p)
	return message.Result{Receipt: receipt, Err: err}
}

// publishes waits until what is published is taken again.
func (f fixture) publishes(t *testing.T, p message.Publication) {
	t.Helper()
	eventually(t, "there is room again", func() bool { return f.one(t, p).Err == nil })
}

// ways returns the ways in which one message may be published to a destination.
func ways(p message.Publication) []message.Publication {
	keyed, delayed := p, p
	keyed.IdempotencyKey, delayed.Delay = "key", time.Hour
	return []message.Publication{p, keyed, delayed}
}

// TestQuotaOfDeadLetters has a tenant with as many dead letters as it may have. It publishes nothing, but what fails becomes a dead
// letter nevertheless, and is redriven.
func TestQuotaOfDeadLetters(t *testing.T) {
	t.Parallel()
	f := limited(t, message.Limits{Letters: 3})
	q := name(t, "orders")
	if _, err := f.CreateQueue(within(t), q, message.Policy{MaxAttempts: 1, Bindings: []message.Binding{{Topic: "news", Pattern: "#"}}}); err != nil {
		t.Fatal(err)
	}
	f.publish(t, q, "fails")
	f.letters(t, q, 3)
	f.refusedBy(t, "redriven or purged (the quota is dead_letters)", append(ways(to(q, "more")), message.Publication{To: topic(t, "news", "a")})...)
	f.batchOf(t, q, "key", errs.ResourceExhausted)
	failing := f.pullOne(t, request(q, 1))
	results, err := f.Nack(within(t), q, []string{failing.Receipt}, nil, "")
	settled(t, results, err, 0)
	if n := f.count(t, `SELECT count(*) FROM dead_letters`); n != 4 {
		t.Errorf("%d dead letters", n)
	}
	if op, _ := f.redrive(t, q, message.Choice{Filter: &message.Filter{}}, 0); op.Done != 4 {
		t.Errorf("%+v", op)
	}
	f.publishes(t, to(q, "again"))
}

// TestQuotaOfQueues fills the queues of a tenant, in which the copies of a topic's message count each.
func TestQuotaOfQueues(t *testing.T) {
	t.Parallel()
	f := limited(t, message.Limits{Queued: 5})
	q := f.bound(t, "orders", message.Binding{Topic: "news", Pattern: "#"})
	f.bound(t, "other", message.Binding{Topic: "news", Pattern: "#"})
	news := message.Publication{To: topic(t, "news", "a")}
	accepted := 0
	for _, r := range f.PublishBatch(within(t), []message.Publication{news, to(q, "3"), to(q, "4"), to(q, "5"), to(q, "6"), to(q, "7")}) {
		if r.Err == nil {
			accepted++
		}
	}
	if accepted != 5 { // Of which one has two copies, which nobody counted yet.
		t.Errorf("%d accepted", accepted)
	}
	f.refusedBy(t, "queue_messages", append(ways(to(q, "more"))[:2], news)...)
	later := to(q, "later")
	later.Delay = time.Hour
	if r := f.one(t, later); r.Err != nil {
		t.Errorf("what is delayed waits elsewhere: %v", r.Err)
	}
	if _, err := f.PurgeQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	f.publishes(t, to(q, "again"))
}

// TestQuotaOfBytesInQueues fills the queues of a tenant with one large message.
func TestQuotaOfBytesInQueues(t *testing.T) {
	t.Parallel()
	f := limited(t, message.Limits{Bytes: 1000, WaitBytes: 100})
	q := f.queue(t, "orders")
	f.publish(t, q, strings.Repeat("x", 990))
	f.refusedBy(t, "queue_bytes", ways(to(q, strings.Repeat("y", 11)))[:2]...)
	f.publishes(t, to(q, "small"))
	f.refusedBy(t, "bytes of waiting messages", ways(to(q, strings.Repeat("y", 101)))[2])
}

// TestWhatIsDueWaitsForRoom has a relay with messages for a tenant whose queues are full: those that were in a queue before go, the others
// wait until there is room.
func TestWhatIsDueWaitsForRoom(t *testing.T) {
	t.Parallel()
	f := limited(t, message.Limits{Queued: 2})
	q := f.queue(t, "orders")
	for _, body := range []string{"first", "second"} {
		f.publish(t, q, body)
	}
	f.refusedBy(t, "queue_messages", to(q, "third"))
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, attempts, body) SELECT 'default', gen_random_uuid(), 'orders', now(), n, ''
		FROM generate_series(0, 1) n`)
	f.letters(t, q, 1)
	if op, _ := f.redrive(t, q, message.Choice{Filter: &message.Filter{}}, 0); op.Done != 1 {
		t.Errorf("%+v", op)
	}
	f.relay(t)
	eventually(t, "what failed before is back", func() bool { return f.count(t, `SELECT count(*) FROM broker_messages`) == 3 })
	eventually(t, "two wait", func() bool { return f.waiting(t) == 2 })
	if n := f.count(t, `SELECT count(*) FROM broker_messages`); n != 3 {
		t.Errorf("%d are in the queue", n)
	}
	f.raw(t, "orders")
	f.drained(t)
}

// TestDepthsAreCounted counts what a broker holds that keeps no messages in the database: a quota has them until they are gone, or were
// not counted for long.
func TestDepthsAreCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	counted := func(want int) {
		t.Helper()
		if err := f.CountDepths(within(t)); err != nil {
			t.Fatal(err)
		}
		f.wantDepths(t, want)
	}
	for _, body := range []string{"a", "b", "c"} {
		f.publish(t, q, body)
	}
	f.publish(t, other, "d")
	counted(4)
	f.publish(t, q, "e")
	counted(5)
	if err := f.DeleteQueue(within(t), other); err != nil {
		t.Fatal(err)
	}
	f.wantDepths(t, 4)
	f.exec(t, `UPDATE queue_depths SET measured_at = now() - interval '2 hours'`)
	if err := f.Sweep(within(t)); err != nil {
		t.Fatal(err)
	}
	f.wantDepths(t, 0)
}

// wantDepths wants a number of messages counted beside those of the broker in PostgreSQL, which counts its own.
func (f fixture) wantDepths(t *testing.T, want int) {
	t.Helper()
	n := f.count(t, `SELECT coalesce(sum(n), 0) FROM tenant_usage_deltas WHERE resource = 'queue_messages'`) - f.count(t, `SELECT count(*) FROM broker_messages`)
	if n != want {
		t.Errorf("%d messages are counted, want %d", n, want)
	}
}
