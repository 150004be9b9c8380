package amqp

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
	"plinth/internal/errs"
)

func TestQueueArguments(t *testing.T) {
	t.Parallel()
	for version, limited := range map[string]bool{
		"3.10.8": false, "3.13.7": false, "4.0.0-rc.2": true, "4.1.4": true, "10.0": true, "": false,
	} {
		arguments := queueArguments(broker.Queue{}, parseVersion(version))
		if limit, set := arguments["x-delivery-limit"]; set != limited || set && limit != int64(-1) {
			t.Errorf("version %q: x-delivery-limit is %v, set %v, want it set: %v", version, limit, set, limited)
		}
		if arguments["x-queue-type"] != "quorum" {
			t.Errorf("version %q: the queue is %v, want a quorum queue", version, arguments["x-queue-type"])
		}
	}
	for ttl, want := range map[time.Duration]any{
		0: nil, time.Microsecond: int64(1), time.Second: int64(1000), 365 * 24 * time.Hour: int64(31_536_000_000),
	} {
		if got := queueArguments(broker.Queue{MessageTTL: ttl}, serverVersion{})["x-message-ttl"]; got != want {
			t.Errorf("x-message-ttl of %v is %v, want %v", ttl, got, want)
		}
	}
}

func TestAttempt(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		delivery amqp091.Delivery
		want     int
	}{
		"RabbitMQ 3.10, first": {amqp091.Delivery{Headers: amqp091.Table{"x-delivery-count": int64(0)}}, 1},
		"RabbitMQ 3.13, first": {amqp091.Delivery{}, 1},
		"RabbitMQ 3.13, third": {amqp091.Delivery{Redelivered: true, Headers: amqp091.Table{"x-delivery-count": int64(2)}}, 3},
		"RabbitMQ 4.3, fourth": {amqp091.Delivery{Redelivered: true, Headers: amqp091.Table{
			"x-delivery-count": int64(1), "x-acquired-count": int64(3),
		}}, 4},
		"classic queue, again": {amqp091.Delivery{Redelivered: true}, 2},
	} {
		if got := attempt(&c.delivery); got != c.want {
			t.Errorf("%s: attempt %d, want %d", what, got, c.want)
		}
	}
}

// TestOldQueueOnANewServer declares queues on a server that calls itself RabbitMQ 3, and then again once it calls itself RabbitMQ 4.
func TestOldQueueOnANewServer(t *testing.T) {
	t.Parallel()
	p, url := newProxy(t, serverURL(t))
	p.claimVersion("3.13.7")
	before := newBroker(t, url)
	brokertest.Serve(t, before)
	queues := []string{brokertest.Declare(t, before, broker.Queue{}), brokertest.Declare(t, before, broker.Queue{MaxLength: 5})}
	p.remove("version")
	p.claimVersion("4.1.4")
	core, logs := observer.New(zap.WarnLevel)
	b, err := New(url, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	brokertest.Serve(t, b)
	if brokertest.Declare(t, b, broker.Queue{}); logs.Len() != 0 {
		t.Errorf("of a new queue: %v", logs.All())
	}
	for range 2 {
		for i, queue := range queues {
			if err := b.Declare(brokertest.Patient(t), broker.Queue{Name: queue, MaxLength: int64(i * 5)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if told := logs.FilterMessageSnippet(wayOut).Len(); told != 1 {
		t.Errorf("the way out was told %d times, want once:\n%v", told, logs.All())
	}
}

// TestMessageTTLOnAnOldServer has the server call itself RabbitMQ 3.9.
func TestMessageTTLOnAnOldServer(t *testing.T) {
	t.Parallel()
	p, url := newProxy(t, serverURL(t))
	p.claimVersion("3.9.29")
	b := newBroker(t, url)
	brokertest.Serve(t, b)
	queue := brokertest.QueueName(t, b)
	err := b.Declare(brokertest.Patient(t), broker.Queue{Name: queue, MessageTTL: time.Minute})
	if !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "3.10") {
		t.Errorf("message_ttl: %v, want to be told the version that has it", err)
	}
	if err := b.Declare(brokertest.Patient(t), broker.Queue{Name: queue, MaxLength: 10}); err != nil {
		t.Errorf("max_length: %v", err)
	}
}

// TestForeignQueue uses a queue that another client declared, with other arguments.
func TestForeignQueue(t *testing.T) {
	t.Parallel()
	_, b, _ := throughProxy(t)
	queue := brokertest.QueueName(t, b)
	conn, err := amqp091.Dial(serverURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := onChannel(conn, func(channel *amqp091.Channel) error {
		_, err := channel.QueueDeclare(queue, true, false, false, false, amqp091.Table{"x-queue-type": "classic"})
		return err
	}); err != nil {
		t.Fatal(err)
	}

	if err := b.Declare(brokertest.Patient(t), broker.Queue{Name: queue}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("Declare: %v, want errs.FailedPrecondition", err)
	}
	sub := brokertest.Subscribe(t, b, queue, 1)
	publish(t, b, queue)
	for attempt, want := range []int{1, 2, 2} {
		d := brokertest.Receive(t, sub)
		if d.Attempt != want {
			t.Errorf("delivery %d of a classic queue has attempt %d, want %d", attempt+1, d.Attempt, want)
		}
		brokertest.Nack(t, d)
	}
}

// TestThousandSubscriptions has 1,000 subscriptions hold a message each, and cuts them all.
func TestThousandSubscriptions(t *testing.T) {
	t.Parallel()
	const subscriptions = 1000
	p, b, queue := throughProxy(t)
	subs := make([]broker.Subscription, subscriptions)
	var wg sync.WaitGroup
	for i := range subs {
		wg.Go(func() {
			var err error
			if subs[i], err = b.Subscribe(brokertest.Patient(t), queue, 1); err != nil {
				t.Errorf("Subscribe: %v", err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for range subscriptions {
		wg.Go(func() { publish(t, b, queue) })
	}
	eachReceives := func() {
		for _, sub := range subs {
			wg.Go(func() {
				if _, err := sub.Receive(brokertest.Patient(t)); err != nil {
					t.Errorf("Receive: %v", err)
				}
			})
		}
		wg.Wait()
	}
	eachReceives()
	p.cut()
	eachReceives()
	if err := b.Delete(brokertest.Patient(t), queue); err != nil {
		t.Fatal(err)
	}
	for _, sub := range subs {
		if _, err := sub.Receive(brokertest.Patient(t)); !errors.Is(err, broker.ErrNoQueue) {
			t.Fatalf("Receive: %v, want ErrNoQueue", err)
		}
	}
}

// TestManyConnections has more subscriptions than one connection has channels. The client learns that number when it
// connects.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	p, url := newProxy(t, serverURL(t))
	other, b := newBroker(t, url), newBroker(t, url)
	brokertest.Serve(t, other)
	queue := brokertest.Declare(t, other, broker.Queue{})
	const room, subscriptions = 5, 12
	b.channelMax, b.consuming.channelMax = room+spareChannels, room+spareChannels
	subs := make([]broker.Subscription, subscriptions)
	all := func(what string) {
		t.Helper()
		for range subs {
			brokertest.Eventually(t, "publishing works", func() bool {
				return b.Publish(t.Context(), broker.Address{Queue: queue}, message()) == nil
			})
		}
		var got []broker.Delivery
		for _, sub := range subs { // Each holds one, so each gets one.
			got = append(got, brokertest.Receive(t, sub))
		}
		for _, d := range got {
			brokertest.Ack(t, d)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, l := range b.consumers {
			if l.subscriptions > room {
				t.Errorf("%s: connection %d has %d subscriptions", what, i+1, l.subscriptions)
			}
		}
		if n := len(b.consumers); n != 3 {
			t.Errorf("%s: %d connections", what, n)
		}
	}
	var subscribing sync.WaitGroup
	for i := range subs {
		subscribing.Go(func() {
			var err error
			if subs[i], err = b.Subscribe(brokertest.Patient(t), queue, 1); err != nil {
				t.Error(err)
			}
		})
	}
	brokertest.Eventually(t, "all wait for the connection", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.consuming.subscriptions == subscriptions
	})
	brokertest.Serve(t, b)
	subscribing.Wait()
	all("at first")
	brokertest.WantReady(t, b, queue, 0) // Other calls still find a channel.
	p.cut()
	all("after a cut")
	for i := range subs {
		subs[i].Close()
	}
	for i := range subs {
		subs[i] = brokertest.Subscribe(t, b, queue, 1)
	}
	all("of new ones")
}
