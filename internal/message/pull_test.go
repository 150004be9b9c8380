package message_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// shortLease is the shortest lease that the API allows.
const shortLease = time.Second

func request(q message.QueueName, most int) message.PullRequest {
	return message.PullRequest{Queue: q, Max: most, Wait: 8 * time.Second, AckDeadline: long}
}

func (f fixture) pull(t *testing.T, r message.PullRequest) []message.Pulled {
	t.Helper()
	pulled, err := f.Pull(within(t), r)
	if err != nil {
		t.Fatal(err)
	}
	return pulled
}

// pullOne pulls exactly one message.
func (f fixture) pullOne(t *testing.T, r message.PullRequest) message.Pulled {
	t.Helper()
	pulled := f.pull(t, r)
	if len(pulled) != 1 {
		t.Fatalf("%d messages, want one", len(pulled))
	}
	return pulled[0]
}

// settled fails unless the one receipt has the result; kind is "" for success.
func settled(t *testing.T, results []error, err error, kind errs.Kind) {
	t.Helper()
	if err != nil || len(results) != 1 {
		t.Fatalf("%v, %v", results, err)
	}
	if kind == 0 && results[0] != nil || kind != 0 && !errs.Is(results[0], kind) {
		t.Errorf("got %v, want %v", results[0], kind)
	}
}

func (f fixture) ack(t *testing.T, q message.QueueName, receipt string, kind errs.Kind) {
	t.Helper()
	results, err := f.Ack(within(t), q, []string{receipt})
	settled(t, results, err, kind)
}

// spent fails unless a receipt settles nothing.
func (f fixture) spent(t *testing.T, q message.QueueName, receipt string) {
	t.Helper()
	f.ack(t, q, receipt, errs.FailedPrecondition)
	results, err := f.Nack(within(t), q, []string{receipt}, nil, "")
	settled(t, results, err, errs.FailedPrecondition)
	results, err = f.Extend(within(t), q, []string{receipt}, long)
	settled(t, results, err, errs.FailedPrecondition)
}

func TestPulledMessagesAreOutstanding(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	there := f.another(t)
	if pulled := f.pull(t, message.PullRequest{Queue: q, Max: 10, AckDeadline: long}); len(pulled) != 0 {
		t.Errorf("%v came out of nothing", pulled)
	}
	ids := map[string]string{f.publish(t, q, "a"): "a", f.publish(t, q, "b"): "b", f.publish(t, q, "c"): "c"}
	pulled := f.pull(t, message.PullRequest{Queue: q, Max: 10, AckDeadline: long})
	if len(pulled) != 3 {
		t.Fatalf("%d messages, want 3", len(pulled))
	}
	for _, m := range pulled {
		if ids[m.ID] != string(m.Body) || m.Attempt != 1 || m.PublishedAt().IsZero() {
			t.Errorf("%+v", m)
		}
		if got, err := f.GetMessage(within(t), m.ID); !errs.Is(err, errs.NotFound) {
			t.Errorf("GetMessage: %v, %v", got, err)
		}
		if err := f.CancelMessage(within(t), m.ID); !errs.Is(err, errs.NotFound) {
			t.Errorf("CancelMessage: %v", err)
		}
	}
	if n, err := f.PurgeQueue(within(t), q); n != 0 || err != nil {
		t.Errorf("PurgeQueue: %d, %v", n, err)
	}
	got, err := f.GetQueue(within(t), q)
	if err != nil || got.Stats.Depth != 0 || got.Stats.Waiting != 0 || got.Stats.Pulled != 3 {
		t.Errorf("%+v, %v", got.Stats, err)
	}
	for _, m := range pulled {
		there.ack(t, q, m.Receipt, 0)
		f.spent(t, q, m.Receipt)
	}
	f.drained(t)
	nothing(t, f.subscribe(t, q, 10, long))
}

func TestLeasesThatEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.relay(t)
	q := f.queueOf(t, "orders", message.Policy{MaxAttempts: 3})
	id := f.publish(t, q, "a")
	r := request(q, 1)
	r.AckDeadline = shortLease
	first := f.pullOne(t, r)
	second := f.pullOne(t, r)
	if second.ID != id || second.Attempt != 2 || second.Receipt == first.Receipt {
		t.Errorf("%+v", second)
	}
	f.spent(t, q, first.Receipt) // And leaves the second one alone:
	results, err := f.Extend(within(t), q, []string{second.Receipt}, 2*shortLease)
	settled(t, results, err, 0)
	start := time.Now()
	third := f.pullOne(t, r)
	if third.Attempt != 3 || time.Since(start) < 2*shortLease-50*time.Millisecond {
		t.Errorf("%+v after %v", third, time.Since(start))
	}
	letter := f.dead(t, q, 1)[0] // The third attempt was the last.
	if letter.MessageID != id || letter.Attempts != 3 || letter.Reason != "delivered 3 times without being settled" ||
		string(letter.Body) != "a" || letter.FirstFailedAt.IsZero() {
		t.Errorf("%+v", letter)
	}
	f.spent(t, q, third.Receipt)
	f.drained(t)
}

// TestReceiptsWhoseLeaseIsOver has no relay that would take the message.
func TestReceiptsWhoseLeaseIsOver(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.publish(t, q, "a")
	r := request(q, 1)
	r.AckDeadline = shortLease
	m := f.pullOne(t, r)
	eventually(t, "the lease is over", func() bool {
		return f.count(t, `SELECT count(*) FROM message_waiting WHERE due_at <= clock_timestamp()`) == 1
	})
	f.spent(t, q, m.Receipt)
	if n := f.waiting(t); n != 1 {
		t.Errorf("%d rows, want the one that was pulled", n)
	}
}

func TestNackPulled(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.relay(t)
	q := f.queueOf(t, "orders", message.Policy{MaxAttempts: 2, MinBackoff: 400 * time.Millisecond})
	id := f.publish(t, q, "a")
	first, start := f.pullOne(t, request(q, 1)), time.Now()
	results, err := f.Nack(within(t), q, []string{first.Receipt, first.Receipt, "none"}, nil, "no")
	if err != nil || results[0] != nil || !errs.Is(results[1], errs.FailedPrecondition) || !errs.Is(results[2], errs.InvalidArgument) {
		t.Errorf("%v, %v", results, err)
	}
	second := f.pullOne(t, request(q, 1))
	if second.ID != id || second.Attempt != 2 || time.Since(start) < 200*time.Millisecond {
		t.Errorf("%+v after %v", second, time.Since(start))
	}
	results, err = f.Nack(within(t), q, []string{second.Receipt}, after(0), "still no")
	settled(t, results, err, 0)
	if letter := f.dead(t, q, 1)[0]; letter.Attempts != 2 || letter.Reason != "still no" {
		t.Errorf("%+v", letter)
	}
	f.spent(t, q, second.Receipt)
}

func TestReceiptsOfOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "others")
	f.queueAs(t, "acme", "orders", message.Policy{})
	f.publish(t, q, "a")
	f.publish(t, q, "b")
	pulled := f.pull(t, request(q, 2))
	mine := pulled[0].Receipt
	f.spent(t, other, mine)
	results, err := f.Ack(as(t, "acme"), q, []string{mine})
	settled(t, results, err, errs.FailedPrecondition)
	results, err = f.Nack(as(t, "acme"), q, []string{mine}, nil, "")
	settled(t, results, err, errs.FailedPrecondition)
	results, err = f.Extend(as(t, "acme"), q, []string{mine}, long)
	settled(t, results, err, errs.FailedPrecondition)
	for _, forged := range []string{"", "x", mine + "x", mine[1:], strings.ToUpper(mine), mine[:len(mine)-1] + "=", "Ag" + mine[2:]} {
		if results, err := f.Ack(within(t), q, []string{forged}); err != nil || results[0] == nil {
			t.Errorf("%q settled something: %v", forged, err)
		}
	}
	if n := f.count(t, `SELECT count(*) FROM message_waiting WHERE lease IS NOT NULL AND due_at < now() + interval '1 minute'`); n != 2 {
		t.Errorf("%d leases are as they were, want 2", n)
	}
	results, err = f.Ack(within(t), q, []string{mine, pulled[1].Receipt})
	if err != nil || results[0] != nil || results[1] != nil {
		t.Errorf("%v, %v", results, err)
	}
}

// TestCopiesOfPulledMessages has the broker deliver a message again that was pulled, as after the death of a process between its
// commit and its ack.
func TestCopiesOfPulledMessages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.relay(t)
	q := f.queue(t, "orders")
	f.publish(t, q, "a")
	r := request(q, 5)
	r.AckDeadline = 2 * shortLease
	m := f.pullOne(t, r)
	again := broker.Message{ID: m.ID, Body: m.Body}
	if err := f.broker.Publish(within(t), broker.Address{Queue: "default.orders"}, again); err != nil {
		t.Fatal(err)
	}
	r.Wait = 0
	if pulled := f.pull(t, r); len(pulled) != 0 {
		t.Errorf("%v has two leases", pulled)
	}
	f.depth(t, q, 0)
	if second := f.pullOne(t, request(q, 5)); second.ID != m.ID || second.Attempt != 2 {
		t.Errorf("%+v, want the second attempt of %s", second, m.ID)
	}
}

// TestPullWhileTheRelayPublishes pulls a message that a relay has published and whose row it has not deleted yet. If the pull did not
// wait for that, it would take the row for its own, and the message would be lost with it.
func TestPullWhileTheRelayPublishes(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	pulled := make(chan []message.Pulled, 1)
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		outcomes := f.trouble.Broker.PublishBatch(ctx, batch)
		go func() {
			got, err := f.Pull(within(t), request(q, 1))
			if err != nil {
				t.Error(err)
			}
			pulled <- got
		}()
		for waits := 0; waits == 0 && ctx.Err() == nil; {
			_ = f.owner.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO message_waiting%'`).Scan(&waits)
		}
		return outcomes
	})
	ids := f.publishTx(t, to(q, "a"))
	f.relay(t)
	got := <-pulled
	if len(got) != 1 || got[0].ID != ids[0] {
		t.Fatalf("%v came, want %s", got, ids[0])
	}
	f.ack(t, q, got[0].Receipt, 0)
}

func TestPulledMessagesAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.Service = f.process(t, message.Limits{Pulled: 2, Waiting: 1})
	run(t, f.Run)
	q := f.queue(t, "orders")
	f.publish(t, q, "a")
	f.publish(t, q, "b")
	two := f.pull(t, request(q, 2))
	eventually(t, "the tenant may pull no more", func() bool {
		_, err := f.Pull(within(t), message.PullRequest{Queue: q, Max: 1, AckDeadline: long})
		return errs.Is(err, errs.ResourceExhausted)
	})
	later := to(q, "later") // What was pulled takes nothing from what may wait.
	later.Delay = time.Hour
	if _, err := f.Publish(within(t), later); err != nil {
		t.Error(err)
	}
	for _, m := range two {
		f.ack(t, q, m.Receipt, 0)
	}
	eventually(t, "it may again", func() bool {
		_, err := f.Pull(within(t), message.PullRequest{Queue: q, Max: 1, AckDeadline: long})
		return err == nil
	})
}
