package message_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// heavy binds many queues with 51 patterns each to a topic of tenant a, as if that had been done long ago.
func (f fixture) heavy(t *testing.T, queues int) {
	t.Helper()
	f.exec(t, `INSERT INTO queues (tenant, name) SELECT 'a', 'bound-' || n FROM generate_series(1, $1) n`, queues)
	f.exec(t, `INSERT INTO queue_bindings (tenant, queue, topic, pattern)
		SELECT 'a', 'bound-' || n, 'news', 'a.*.' || n || '.' || m FROM generate_series(1, $1) n, generate_series(1, 51) m`, queues)
}

// slowly is a broker that takes its time to declare queues, until it is hurried.
type slowly struct {
	broker.Broker
	hurry chan struct{}
	mu    sync.Mutex
	names map[string]int // how often each of tenant a's was declared
}

func (b *slowly) Declare(ctx context.Context, q broker.Queue) error {
	if strings.HasPrefix(q.Name, "a.") {
		b.mu.Lock()
		b.names[q.Name]++
		b.mu.Unlock()
	}
	select {
	case <-b.hurry:
		return b.Broker.Declare(ctx, q)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *slowly) declared() (queues, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.names {
		queues, most = queues+1, max(most, n)
	}
	return queues, most
}

// While one lane of a relay waits for the queues of a topic, the others do not.
func TestOneLaneWaitsForTopics(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	slow := &slowly{Broker: f.broker, hurry: make(chan struct{}), names: map[string]int{}}
	f.broker = slow
	f.Service = f.process(t, message.Limits{})
	f.heavy(t, 2)
	if err := f.DeclareBeside(as(t, "a"), "news"); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	close(slow.hurry)
	eventually(t, "they are declared", func() bool { queues, _ := slow.declared(); return queues == 2 })
}

// TestTopicOfManyQueues publishes to a topic with very many queues that the broker does not know yet: other messages, also those of other
// tenants in the relay, do not wait for it, and it is published to once they are declared, each of them once. Then only what is new is
// declared.
func TestTopicOfManyQueues(t *testing.T) {
	t.Parallel()
	queues := atFullLength(1000, 100)
	f := newFixture(t, false)
	slow := &slowly{Broker: f.broker, hurry: make(chan struct{}), names: map[string]int{}}
	close(slow.hurry)
	f.broker = slow
	f.Service = f.process(t, message.Limits{})
	run(t, f.Run)
	f.heavy(t, queues)
	orders := f.queueAs(t, "b", "orders", message.Policy{})
	slow.hurry, slow.names = make(chan struct{}), map[string]int{}

	news := message.Publication{To: topic(t, "news", "a.x.7.3"), Body: []byte("x")}
	later := news
	later.Delay = time.Millisecond
	run(t, f.Relay)
	for range 10 { // More than the relay has lanes.
		f.publishAs(t, "a", later)
	}
	refused := make(chan error, 1)
	go func() { _, err := f.Publish(as(t, "a"), news); refused <- err }()
	eventually(t, "the declaring has begun", func() bool { n, _ := slow.declared(); return n > 0 })
	sub := f.subscribeAs(t, "b", orders)
	began := time.Now()
	for n := range 5 {
		f.publishAs(t, "b", message.Publication{To: message.ToQueue(orders), IdempotencyKey: fmt.Sprint(n)})
		one(t, sub)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("five messages of another tenant took %v", took)
	}
	if err := <-refused; !errs.Is(err, errs.Unavailable) {
		t.Errorf("a publication to the topic: %v", err)
	}
	close(slow.hurry)
	eventually(t, "it is published to", func() bool { _, err := f.Publish(as(t, "a"), news); return err == nil })
	if n, most := slow.declared(); n != queues || most > 2 { // The first one may have been given up once.
		t.Errorf("%d queues were declared, one of them %d times", n, most)
	}
}
