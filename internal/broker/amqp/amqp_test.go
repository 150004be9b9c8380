package amqp

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
)

func TestBroker(t *testing.T) {
	t.Parallel()
	server := serverURL(t)
	brokertest.Run(t, func(t *testing.T) (broker.Broker, func()) {
		p, url := newProxy(t, server)
		p.listen()
		return newBroker(t, url), p.cut
	})
}

// serverURL gives the URL of the RabbitMQ that the tests run on. Where there is none they are skipped, except under CI.
func serverURL(t *testing.T) string {
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

func newBroker(t *testing.T, url string) *Broker {
	t.Helper()
	b, err := New(url, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run runs a broker until the test is over.
func run(t *testing.T, b *Broker) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not end")
		}
	})
}

const patience = 20 * time.Second

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// throughProxy gives a broker that is up, through a proxy, and an empty queue.
func throughProxy(t *testing.T) (*proxy, *Broker, string) {
	t.Helper()
	p, url := newProxy(t, serverURL(t))
	p.listen()
	b := newBroker(t, url)
	run(t, b)
	queue := declareQueue(t, b)
	publish(t, b, queue)
	sub := subscribe(t, b, queue, 1)
	if err := receive(t, sub).Ack(t.Context()); err != nil {
		t.Fatal(err)
	}
	sub.Close()
	return p, b, queue
}

func queueName(t *testing.T, b *Broker) string {
	t.Helper()
	name := "brokertest-" + uuid.NewString()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Delete(ctx, name); err != nil {
			t.Errorf("Delete in cleanup: %v", err)
		}
	})
	return name
}

func declareQueue(t *testing.T, b *Broker) string {
	t.Helper()
	queue := queueName(t, b)
	if err := b.Declare(patient(t), queue); err != nil {
		t.Fatalf("Declare: %v", err)
	}
	return queue
}

func subscribe(t *testing.T, b *Broker, queue string, credit int) broker.Subscription {
	t.Helper()
	sub, err := b.Subscribe(patient(t), queue, credit)
	if err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	t.Cleanup(sub.Close)
	return sub
}

func publish(t *testing.T, b *Broker, queue string) {
	t.Helper()
	if err := b.Publish(patient(t), queue, message()); err != nil {
		t.Errorf("Publish: %v", err)
	}
}

// publishSoon wants publishing to work again within the time that readiness has.
func publishSoon(t *testing.T, b *Broker, queue string) {
	t.Helper()
	began := time.Now()
	eventually(t, "publishing works again", func() bool { return b.Publish(t.Context(), queue, message()) == nil })
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("publishing was back after %v", took)
	}
}

func receive(t *testing.T, sub broker.Subscription) broker.Delivery {
	t.Helper()
	d, err := sub.Receive(patient(t))
	if err != nil {
		t.Fatalf("Receive: %v", err)
	}
	return d
}

func wantReady(t *testing.T, b *Broker, queue string, want int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d messages wait", want), func() bool {
		n, err := b.Ready(patient(t), queue)
		return err == nil && n == want
	})
}

// eventually polls until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}
