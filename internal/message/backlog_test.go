package message_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/message"
)

// fillOf inserts many waiting messages of a tenant for a queue.
func (f fixture) fillOf(t *testing.T, tenant, queue string, n int) {
	t.Helper()
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, body)
		SELECT $1, gen_random_uuid(), $2, now() - interval '1 hour', 'x' FROM generate_series(1, $3)`, tenant, queue, n)
}

// A tenant's waiting messages, however many and however old, take no more than its share of a batch.
func TestRelayIsFair(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	for _, tenant := range []string{"a", "b"} {
		f.queueAs(t, tenant, "orders", message.Policy{})
	}
	f.queueAs(t, "a", "others", message.Policy{})
	f.fillOf(t, "a", "orders", 5000)
	f.fillOf(t, "a", "others", 1)
	f.fillOf(t, "b", "orders", 600)
	first := make(chan map[string]int, 100)
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		count := map[string]int{}
		for _, p := range batch {
			count[p.To.Queue]++
		}
		first <- count
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	f.relay(t)
	f.drained(t)
	b, others := 0, 0
	for n := range 3 { // As many as are on their way at a time, in any order.
		batch := <-first
		if batch["a.orders"] > 512 {
			t.Errorf("batch %d has %v", n+1, batch)
		}
		b, others = b+batch["b.orders"], others+batch["a.others"]
	}
	if b != 600 || others != 1 {
		t.Errorf("the first three batches have %d of the other tenant and %d of the other queue", b, others)
	}
}

// A queue that accepts nothing is tried rarely and with few messages, and does not hold up others.
func TestBacklogThatCannotBeSentIsLeftAlone(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	f.queueAs(t, "a", "full", message.Policy{})
	q := f.queueAs(t, "b", "orders", message.Policy{})
	f.fillOf(t, "a", "full", atFullLength(5000, 2000))
	var mu sync.Mutex
	var tried []int // by batch
	full := true
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		mu.Lock()
		isFull, n := full, 0
		for _, p := range batch {
			if strings.HasPrefix(p.To.Queue, "a.") {
				n++
			}
		}
		if n > 0 {
			tried = append(tried, n)
		}
		mu.Unlock()
		outcomes := f.trouble.Broker.PublishBatch(ctx, batch)
		for i, p := range batch {
			if isFull && strings.HasPrefix(p.To.Queue, "a.") {
				outcomes[i] = broker.ErrFull
			}
		}
		return outcomes
	})
	f.relay(t)
	attempts := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(tried)
	}
	eventually(t, "the full queue is tried three times", func() bool { return attempts() >= 3 })
	eventually(t, "the failures are kept", func() bool { return f.count(t, `SELECT coalesce(max(failures), 0) FROM message_backoffs`) >= 3 })
	sub := f.subscribeAs(t, "b", q)
	begin := time.Now()
	f.publishAs(t, "b", message.Publication{To: message.ToQueue(q), IdempotencyKey: "k"})
	one(t, sub)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("another queue's message took %v", took)
	}
	mu.Lock()
	for i, n := range tried[3:] { // The first ones are on their way at the same time.
		if n > 8 {
			t.Errorf("try %d has %d messages", i+4, n)
		}
	}
	full = false
	mu.Unlock()
	f.drained(t)
	if n := f.count(t, `SELECT count(*) FROM message_backoffs`); n != 0 {
		t.Errorf("%d back-offs are left", n)
	}
}
