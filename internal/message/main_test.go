package message_test

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/broker/postgres"
	"plinth/internal/message"
	"plinth/internal/outbound"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
	"plinth/internal/seal"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// atFullLength returns full with CI=true, else short: how much of something a test has.
func atFullLength(full, short int) int {
	if os.Getenv("CI") == "true" {
		return full
	}
	return short
}

// fixture is the service over a database and a broker of the test's own.
type fixture struct {
	*message.Service
	broker broker.Broker
	log    *zap.Logger
	logs   *observer.ObservedLogs
	db     *pg.DB
	system *pg.System // sees all tenants
	owner  pg.Querier // may change the schema
	url    string
	keys   seal.Keys // of the processes
}

func newFixture(t *testing.T, autoCreate bool) fixture {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	log := zap.New(core)
	url := pgtest.New(t)
	db, err := pg.Open(t.Context(), pg.Config{URL: url, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	f := fixture{nil, nil, log, logs, db, db.System(), pgtest.Owner(t, url), url, keys(t, firstKey)}
	f.broker = f.postgres(t, db)
	f.Service = f.process(t, message.Limits{AutoCreate: autoCreate})
	run(t, f.Run)
	return f
}

// process returns the service of another process. The test has to run it. calls may change how it calls out.
func (f fixture) process(t *testing.T, limits message.Limits, calls ...func(*outbound.Config)) *message.Service {
	t.Helper()
	out := outbound.Config{Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: 5 * time.Second}
	for _, change := range calls {
		change(&out)
	}
	notifier := f.notifier(t)
	s := message.New(message.Config{
		DB: f.db, Handlers: f.db, System: f.system, Notifier: notifier, Broker: f.broker, Limits: limits, Log: f.log,
		Outbound: outbound.New(out), Secrets: f.keys,
	})
	notify(t, notifier)
	return s
}

// postgres returns a broker that runs until the test ends.
func (f fixture) postgres(t *testing.T, db *pg.DB) broker.Broker {
	t.Helper()
	notifier := f.notifier(t)
	b := postgres.New(db.System(), notifier, f.log)
	notify(t, notifier)
	run(t, b.Run)
	return b
}

func (f fixture) notifier(t *testing.T) *pg.Notifier {
	t.Helper()
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: f.system, URL: f.url, Log: f.log})
	if err != nil {
		t.Fatal(err)
	}
	return notifier
}

// notify runs a Notifier until the test ends.
func notify(t *testing.T, n *pg.Notifier) {
	run(t, func(ctx context.Context) error { n.Run(ctx); return nil })
}

// run runs a part until the test ends.
func run(t *testing.T, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("a part does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

func name(t *testing.T, s string) message.QueueName {
	t.Helper()
	q, err := message.ParseQueueName(s)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// within returns a context that bounds a test: no passing run waits for its end. It acts for the default tenant.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return auth.With(ctx, auth.Anonymous())
}

func (f fixture) queue(t *testing.T, s string) message.QueueName {
	t.Helper()
	q := name(t, s)
	if _, err := f.CreateQueue(within(t), q, message.Policy{}); err != nil {
		t.Fatal(err)
	}
	return q
}

func (f fixture) publish(t *testing.T, q message.QueueName, body string) string {
	t.Helper()
	receipt, err := f.Publish(within(t), message.Publication{To: message.ToQueue(q), Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	return receipt.ID
}

func (f fixture) subscribe(t *testing.T, q message.QueueName, outstanding int, deadline time.Duration) *message.Subscription {
	t.Helper()
	sub, err := f.Consume(within(t), q, outstanding, deadline)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	return sub
}

func next(t *testing.T, sub *message.Subscription) []message.Message {
	t.Helper()
	batch, err := sub.Next(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

// one blocks until there is a message, and fails unless it is exactly one.
func one(t *testing.T, sub *message.Subscription) message.Message {
	t.Helper()
	batch := next(t, sub)
	if len(batch) != 1 {
		t.Fatalf("%d messages, want one", len(batch))
	}
	return batch[0]
}

// nothing fails if a message comes within a short time.
func nothing(t *testing.T, sub *message.Subscription) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if batch, err := sub.Next(ctx); err == nil {
		t.Fatalf("%v came", batch)
	}
}
