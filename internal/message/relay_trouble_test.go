package message_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

var errAway = errs.New(errs.Unavailable, "the broker is away")

// troubled is a broker that can be given faults.
type troubled struct {
	broker.Broker
	away       atomic.Bool
	generation atomic.Uint64
	declared   atomic.Int32
	mu         sync.Mutex
	publish    func(context.Context, []broker.Publication) []error // in place of the broker's own, unless it is nil
}

func (b *troubled) PublishBatch(ctx context.Context, batch []broker.Publication) []error {
	b.mu.Lock()
	publish := b.publish
	b.mu.Unlock()
	switch {
	case b.away.Load():
		return each(batch, errAway)
	case publish != nil:
		return publish(ctx, batch)
	default:
		return b.Broker.PublishBatch(ctx, batch)
	}
}

func (b *troubled) Publish(ctx context.Context, to broker.Address, m broker.Message) error {
	return b.PublishBatch(ctx, []broker.Publication{{To: to, Message: m}})[0]
}

func (b *troubled) Ping(ctx context.Context) error {
	if b.away.Load() {
		return errAway
	}
	return b.Broker.Ping(ctx)
}

func (b *troubled) Declare(ctx context.Context, q broker.Queue) error {
	b.declared.Add(1)
	return b.Broker.Declare(ctx, q)
}

func (b *troubled) Generation() uint64 { return b.Broker.Generation() + b.generation.Load() }

// publishes makes the broker publish with f, which may call the real broker.
func (b *troubled) publishes(f func(context.Context, []broker.Publication) []error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.publish = f
}

func each(batch []broker.Publication, err error) []error {
	return slices.Repeat([]error{err}, len(batch))
}

// troubledFixture is a fixture whose broker can be given faults.
type troubledFixture struct {
	fixture
	trouble *troubled
}

func newTroubled(t *testing.T) troubledFixture {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	log := zap.New(core)
	url := pgtest.New(t)
	dbs := make([]*pg.DB, 2)
	for i := range dbs {
		db, err := pg.Open(t.Context(), pg.Config{URL: url, MaxConns: 8})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		dbs[i] = db
	}
	f := fixture{log: log, logs: logs, db: dbs[0], system: dbs[0].System(), owner: pgtest.Owner(t, url), url: url}
	b := &troubled{Broker: f.postgres(t, dbs[1])}
	f.broker = b
	f.Service = f.process(t, message.Limits{})
	run(t, f.Run)
	return troubledFixture{f, b}
}

// relay runs a relay until the test ends.
func (f fixture) relay(t *testing.T) (stop func()) {
	t.Helper()
	return run(t, f.Relay)
}

// publishTx publishes in a transaction of its own, so that the message goes over the waiting table.
func (f fixture) publishTx(t *testing.T, batch ...message.Publication) (ids []string) {
	t.Helper()
	err := f.db.InTx(within(t), func(tx *pg.Tx) error {
		for _, p := range batch {
			receipt, err := f.PublishTx(within(t), tx, p)
			if err != nil {
				return err
			}
			ids = append(ids, receipt.ID)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func to(q message.QueueName, body string) message.Publication {
	return message.Publication{To: message.ToQueue(q), Body: []byte(body)}
}

// waiting returns the number of waiting rows.
func (f fixture) waiting(t *testing.T) (n int) {
	t.Helper()
	if err := f.system.QueryRow(within(t), `SELECT count(*) FROM message_waiting`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (f fixture) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := f.system.Exec(within(t), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// schema changes the schema.
func (f fixture) schema(t *testing.T, sql string) {
	t.Helper()
	if _, err := f.owner.Exec(within(t), sql); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !so() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// drained blocks until there are no waiting rows.
func (f fixture) drained(t *testing.T) {
	t.Helper()
	eventually(t, "no row waits", func() bool { return f.waiting(t) == 0 })
}

// raw subscribes at the broker itself, to a queue of the default tenant, and acknowledges all that comes.
func (f fixture) raw(t *testing.T, queue string) <-chan broker.Delivery {
	t.Helper()
	return f.rawOf(t, auth.DefaultTenant, queue)
}

func (f fixture) rawOf(t *testing.T, tenant, queue string) <-chan broker.Delivery {
	t.Helper()
	sub, err := f.broker.Subscribe(within(t), tenant+"."+queue, 1000)
	if err != nil {
		t.Fatal(err)
	}
	deliveries := make(chan broker.Delivery, 10_000)
	go func() {
		for {
			d, err := sub.Receive(context.Background())
			if err != nil {
				return
			}
			deliveries <- d
			_ = d.Ack(context.Background())
		}
	}()
	t.Cleanup(sub.Close)
	return deliveries
}

func take(t *testing.T, deliveries <-chan broker.Delivery) broker.Delivery {
	t.Helper()
	select {
	case d := <-deliveries:
		return d
	case <-time.After(20 * time.Second):
		t.Fatal("no delivery")
		return broker.Delivery{}
	}
}

// empty fails if a message comes within a short time.
func empty(t *testing.T, deliveries <-chan broker.Delivery) {
	t.Helper()
	select {
	case d := <-deliveries:
		t.Errorf("%s came: %q", d.ID, d.Body)
	case <-time.After(300 * time.Millisecond):
	}
}

func topic(t *testing.T, name, key string) message.Destination {
	t.Helper()
	d, err := message.ToTopic(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
