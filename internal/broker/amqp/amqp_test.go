package amqp

import (
	"os"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

// TestMain has more tests run at a time than there are processors: they wait for limits of seconds, and compute little.
func TestMain(m *testing.M) {
	if err := pgtest.SetParallel("6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func TestBroker(t *testing.T) {
	t.Parallel()
	server := serverURL(t)
	brokertest.Run(t, func(t *testing.T) (broker.Broker, func()) {
		p, url := newProxy(t, server)
		return newBroker(t, url), p.cut
	})
}

// serverURL returns the URL of the RabbitMQ that the tests run on. Without one the tests are skipped, except under CI.
func serverURL(t testing.TB) string {
	t.Helper()
	url := os.Getenv("AMQP_URL")
	if url == "" {
		url = "amqp://guest:guest@127.0.0.1:5672/"
	}
	conn, err := amqp091.Dial(url)
	if err == nil {
		_ = conn.Close()
		return url
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("no RabbitMQ at AMQP_URL or 127.0.0.1:5672: %v", err)
	}
	t.Skipf("no RabbitMQ at AMQP_URL or 127.0.0.1:5672: %v", err)
	return ""
}

func newBroker(t testing.TB, url string) *Broker {
	t.Helper()
	b, err := New(url, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// throughProxy returns a proxy, a connected broker behind it, and an empty queue.
func throughProxy(t *testing.T) (*proxy, *Broker, string) {
	t.Helper()
	p, url := newProxy(t, serverURL(t))
	b := newBroker(t, url)
	brokertest.Serve(t, b)
	queue := brokertest.Declare(t, b, broker.Queue{})
	publish(t, b, queue)
	sub := brokertest.Subscribe(t, b, queue, 1)
	brokertest.Ack(t, brokertest.Receive(t, sub))
	sub.Close()
	return p, b, queue
}

func message() broker.Message { return brokertest.Message(strings.Repeat("body ", 10)) }

// publish reports errors without ending the test, so that any goroutine may call it.
func publish(t *testing.T, b *Broker, queue string) {
	t.Helper()
	if err := b.Publish(brokertest.Patient(t), broker.Address{Queue: queue}, message()); err != nil {
		t.Errorf("Publish: %v", err)
	}
}

func wantUnavailable(t *testing.T, what string, err error) {
	t.Helper()
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("%s: %v, want errs.Unavailable", what, err)
	}
}

// wantSoon expects publishing and the subscription to work again within the time that readiness has.
func wantSoon(t *testing.T, b *Broker, queue string, sub broker.Subscription) {
	t.Helper()
	began := time.Now()
	m := message()
	brokertest.Eventually(t, "publishing works again", func() bool {
		return b.Publish(t.Context(), broker.Address{Queue: queue}, m) == nil
	})
	for received := ""; received != m.ID; {
		d := brokertest.Receive(t, sub)
		received = d.ID
		_ = d.Ack(t.Context()) // It may be from before the loss.
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("all was back after %v", took)
	}
}
