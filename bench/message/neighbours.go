package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/message"
)

const (
	// maxBeside is what is promised of a neighbour's messages beside a storm, at the 99th percentile.
	maxBeside = 100 * time.Millisecond
	// every is the time from one message of the neighbour to the next.
	every = 10 * time.Millisecond
	// ahead is the delay of those that are delayed.
	ahead = 20 * time.Millisecond
	// arrives is how long one of the neighbour's messages may take before it counts as failed.
	arrives = 30 * time.Second
)

// sizes are those of what one tenant does beside another.
type sizes struct {
	rows, messages, batch, queues, bindings int
	alone, beside                           int // most messages of the neighbour
	rounds                                  int
	private                                 bool // with a RabbitMQ of its own
}

var (
	fullSizes  = sizes{rows: 100_000, messages: 20_000, batch: 1000, queues: 1000, bindings: 51, alone: 300, beside: 1000, rounds: 3, private: true}
	shortSizes = sizes{rows: 1000, messages: 500, batch: 20, queues: 10, bindings: 5, alone: 30, beside: 60, rounds: 1}
)

// neighbours measures how long the messages of one tenant take from Publish to its handler, alone and while another has a storm.
func neighbours(ctx context.Context, out io.Writer, s sizes, only string) (broken []error, err error) {
	amqpURL, stop, err := s.rabbitMQ(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	fmt.Fprintf(out, "\nA neighbour's messages from Publish to the handler, in ms\n\n%-10s %-11s %-5s %-24s %-30s %s\n",
		"broker", "storm", "of", "alone: p50, p99, longest", "beside: p50, p99, longest", "failed")
	for _, broker := range []string{"postgres", "rabbitmq"} {
		for _, storm := range storms() {
			if !strings.HasPrefix(broker+"/"+storm.name, only) {
				continue
			}
			var alone, beside figures
			for range s.rounds {
				if err := compare(ctx, amqpURL, broker, storm, s, &alone, &beside); err != nil {
					return broken, fmt.Errorf("%s beside %s: %w", broker, storm.name, err)
				}
			}
			for _, kind := range kinds {
				fmt.Fprintf(out, "%-10s %-11s %-5s %-24s %-30s %d of %d\n", broker, storm.name, kind, alone.of(kind), beside.of(kind), beside.failed[kind], beside.sent(kind))
				if p99 := beside.at(kind, 0.99); p99 > maxBeside || beside.failed[kind] > 0 {
					broken = append(broken, brokenPromise(fmt.Sprintf("%s messages beside %s on %s take %v at p99, and %d failed; promised are %v and 0",
						kind, storm.name, broker, p99.Round(time.Millisecond), beside.failed[kind], maxBeside)))
				}
			}
		}
	}
	return broken, nil
}

// compare measures alone and beside a storm, on a database of its own.
func compare(ctx context.Context, amqpURL, broker string, storm storm, s sizes, alone, beside *figures) (err error) {
	h, err := openHouse(ctx, broker, amqpURL)
	if err != nil {
		return err
	}
	defer h.close()
	if err := h.pace(ctx, s.alone/5, new(figures)); err != nil { // It connects, and compiles its statements.
		return err
	}
	if err := h.pace(ctx, s.alone, alone); err != nil {
		return err
	}
	if err := storm.prepare(auth.AsService(ctx, greedy), h, s); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	raging, end := context.WithCancel(auth.AsService(ctx, greedy))
	ended := make(chan error, 1)
	go func() { ended <- storm.rage(raging, h, s) }()
	err = h.pace(ctx, s.beside, beside)
	end()
	if failed := <-ended; raging.Err() == nil {
		err = errors.Join(err, failed)
	}
	return err
}

// kinds are how the neighbour publishes.
var kinds = []string{"plain", "keyed", "delayed"}

// figures are how long messages took, by kind, and how many failed.
type figures struct {
	mu     sync.Mutex
	took   map[string][]time.Duration
	failed map[string]int
}

func (f *figures) add(kind string, took time.Duration, failed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.took == nil {
		f.took, f.failed = map[string][]time.Duration{}, map[string]int{}
	}
	if failed {
		f.failed[kind]++
		return
	}
	f.took[kind] = append(f.took[kind], took)
}

func (f *figures) sent(kind string) int { return len(f.took[kind]) + f.failed[kind] }

// at returns a quantile of those that arrived.
func (f *figures) at(kind string, part float64) time.Duration {
	took := slices.Sorted(slices.Values(f.took[kind]))
	if len(took) == 0 {
		return 0
	}
	return took[int(part*float64(len(took)-1))]
}

func (f *figures) of(kind string) string {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%.1f, %.1f, %.1f", ms(f.at(kind, 0.5)), ms(f.at(kind, 0.99)), ms(f.at(kind, 1)))
}

// pace publishes n messages of the neighbour at an even pace, of each kind in turn, and waits until they are handled. What is delayed is
// measured from when it is due.
func (h *house) pace(ctx context.Context, n int, to *figures) error {
	ctx = auth.AsService(ctx, modest)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	var publishing sync.WaitGroup
	defer publishing.Wait()
	for i := range n {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		kind, number := kinds[i%len(kinds)], strconv.FormatInt(h.published.Add(1), 10)
		p := message.Publication{To: message.ToQueue(h.orders), Body: []byte(number)}
		began := time.Now()
		switch kind {
		case "keyed":
			p.IdempotencyKey = number
		case "delayed":
			p.Delay = ahead
			began = began.Add(ahead)
		}
		handled := make(chan time.Time, 1)
		h.handled.Store(number, handled)
		publishing.Go(func() { // None waits for the ones before.
			if _, err := h.service.Publish(ctx, p); err != nil {
				to.add(kind, 0, true)
				return
			}
			select {
			case at := <-handled:
				to.add(kind, at.Sub(began), false)
			case <-time.After(arrives):
				to.add(kind, 0, true)
			}
		})
	}
	return nil
}
