package amqp

import (
	"runtime"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
)

// BenchmarkPublish compares publishing with the library alone, which keeps a window of publications full and waits for
// their confirms in order. The two take turns, since the server's speed varies.
func BenchmarkPublish(b *testing.B) {
	server := serverURL(b)
	client := newBroker(b, server)
	brokertest.Serve(b, client)
	queue := brokertest.Declare(b, client, broker.Queue{})
	conn, err := amqp091.Dial(server)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	const part = 10_240
	rates := map[string]float64{}
	parts := map[string]func(*testing.B){
		"raw":         func(b *testing.B) { publishRaw(b, conn, queue, part) },
		"batches":     func(b *testing.B) { publishBatches(b, client, queue, part, 1, 1024) },
		"2x-batches":  func(b *testing.B) { publishBatches(b, client, queue, part, 2, 1024) },
		"256-callers": func(b *testing.B) { publishBatches(b, client, queue, part, 256, 1) },
		"64-callers":  func(b *testing.B) { publishBatches(b, client, queue, part, 64, 1) },
	}
	for b.Loop() {
		for name, run := range parts {
			began := time.Now()
			run(b)
			rates[name] += part / time.Since(began).Seconds()
			if _, err := client.Purge(b.Context(), queue); err != nil {
				b.Fatal(err)
			}
		}
	}
	for name, sum := range rates {
		b.ReportMetric(sum/float64(b.N), name+"/s")
	}
}

func publishRaw(b *testing.B, conn *amqp091.Connection, queue string, messages int) {
	channel, err := conn.Channel()
	if err != nil {
		b.Fatal(err)
	}
	defer channel.Close()
	if err := channel.Confirm(false); err != nil {
		b.Fatal(err)
	}
	unconfirmed := make(chan *amqp091.DeferredConfirmation, window-1)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for c := range unconfirmed {
			if !c.Wait() {
				b.Error("not confirmed")
			}
		}
	})
	m := message()
	for range messages {
		c, err := channel.PublishWithDeferredConfirm("", queue, true, false, amqp091.Publishing{
			DeliveryMode: amqp091.Persistent, MessageId: m.ID, Body: m.Body,
		})
		if err != nil {
			b.Fatal(err)
		}
		unconfirmed <- c
	}
	close(unconfirmed)
	waiting.Wait()
}

func publishBatches(b *testing.B, client *Broker, queue string, messages, callers, size int) {
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			batch := make([]broker.Publication, size)
			for i := range batch {
				batch[i] = broker.Publication{To: broker.Address{Queue: queue}, Message: message()}
			}
			for range messages / callers / size {
				for _, err := range client.PublishBatch(b.Context(), batch) {
					if err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkSubscriptions measures how much memory a subscription costs.
func BenchmarkSubscriptions(b *testing.B) {
	client := newBroker(b, serverURL(b))
	brokertest.Serve(b, client)
	queue := brokertest.Declare(b, client, broker.Queue{})
	const subscriptions = 1000
	for b.Loop() {
		before := memory()
		var subs []broker.Subscription
		for range subscriptions {
			subs = append(subs, brokertest.Subscribe(b, client, queue, 1))
		}
		b.ReportMetric(float64(memory()-before)/subscriptions, "B/subscription")
		for _, sub := range subs {
			sub.Close()
		}
	}
}

// memory returns the bytes of the heap and of the goroutines' stacks.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
