package postgres

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/pg/pgtest"
)

var body = strings.Repeat("x", 256)

func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run("callers="+strconv.Itoa(callers), func(b *testing.B) {
			br, _ := start(b, pgtest.New(b), lease)
			queue := declare(b, br)
			b.ResetTimer()
			publishAll(b, br, queue, callers, b.N)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

func BenchmarkConsume(b *testing.B) {
	for _, credit := range []int{1, 50, 500} {
		b.Run("credit="+strconv.Itoa(credit), func(b *testing.B) {
			br, _ := start(b, pgtest.New(b), lease)
			queue := declare(b, br)
			publishAll(b, br, queue, 64, b.N)
			b.ResetTimer()
			sub := subscribe(b, br, queue, credit)
			var handlers sync.WaitGroup
			for range b.N {
				d := receive(b, sub)
				handlers.Go(func() {
					if err := d.Ack(b.Context()); err != nil {
						b.Error(err)
					}
				})
			}
			handlers.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

func BenchmarkLatency(b *testing.B) {
	br, _ := start(b, pgtest.New(b), lease)
	queue := declare(b, br)
	sub := subscribe(b, br, queue, 1)
	took := make([]time.Duration, b.N)
	for i := range took {
		began := time.Now()
		publish(b, br, queue, body)
		d := receive(b, sub)
		took[i] = time.Since(began)
		if err := d.Ack(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[b.N/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds()), "p99-µs")
}

func publishAll(b *testing.B, br *Broker, queue string, callers, n int) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if err := br.Publish(b.Context(), broker.Address{Queue: queue}, message(body)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
}
