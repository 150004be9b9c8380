package postgres

import (
	"context"
	"errors"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("HOLD_URL") != "" {
		holdAndHang()
	}
	os.Exit(pgtest.Main(m))
}

const patience = 20 * time.Second

func TestConformance(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	owner := pgtest.Owner(t, databaseURL)
	brokertest.Run(t, func(t *testing.T) (broker.Broker, func()) {
		name := "client-" + uuid.NewString()
		clientURL := withParam(t, databaseURL, "application_name", name)
		cut := func() {
			var ended []int32
			err := owner.QueryRow(context.Background(), `
				SELECT array_agg(pid) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1`, name).Scan(&ended)
			for left := len(ended); err == nil && left > 0; {
				err = owner.QueryRow(context.Background(), `SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ($1)`, ended).Scan(&left)
			}
			if err != nil {
				t.Errorf("cut: %v", err)
			}
		}
		return newBroker(t, openDB(t, clientURL), clientURL), cut
	})
}

// newBroker returns a Broker with a Notifier that runs until the test is over.
func newBroker(t testing.TB, db *pg.DB, databaseURL string) *Broker {
	t.Helper()
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: databaseURL, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	b := New(db.System(), notifier, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { notifier.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return b
}

func openDB(t testing.TB, databaseURL string) *pg.DB {
	t.Helper()
	db, err := pg.Open(context.Background(), pg.Config{URL: databaseURL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func withParam(t *testing.T, databaseURL, name, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// start runs a broker whose leases last for the given time, until the test is over or stop is called.
func start(t testing.TB, databaseURL string, lease time.Duration) (b *Broker, stop func()) {
	t.Helper()
	b = newBroker(t, openDB(t, databaseURL), databaseURL)
	b.lease = lease
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- b.Run(ctx)
		close(ended)
	}()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return b, stop
}

func declare(t testing.TB, b *Broker) string {
	t.Helper()
	queue := "default.q-" + uuid.NewString()
	if err := b.Declare(patient(t), broker.Queue{Name: queue}); err != nil {
		t.Fatal(err)
	}
	return queue
}

func message(body string) broker.Message {
	return broker.Message{ID: uuid.Must(uuid.NewV7()).String(), Body: []byte(body)}
}

func publish(t testing.TB, b *Broker, queue string, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if err := b.Publish(patient(t), broker.Address{Queue: queue}, message(body)); err != nil {
			t.Fatal(err)
		}
	}
}

func subscribe(t testing.TB, b *Broker, queue string, credit int) broker.Subscription {
	t.Helper()
	sub, err := b.Subscribe(patient(t), queue, credit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	return sub
}

func receive(t testing.TB, sub broker.Subscription) broker.Delivery {
	t.Helper()
	d, err := sub.Receive(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func receiveNothing(t testing.TB, sub broker.Subscription, during time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), during)
	defer cancel()
	if d, err := sub.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("received %q, attempt %d, error %v, where nothing should come", d.Body, d.Attempt, err)
	}
}

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
