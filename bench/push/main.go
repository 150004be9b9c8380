// Command push measures whether hostile endpoints hold up others: how long messages take from Publish to the endpoint of a queue, alone
// and beside queues of the same tenant whose endpoints are slow, broken or absurd. ../README.md explains how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"time"

	"plinth/bench/command"
	"plinth/internal/auth"
	"plinth/internal/message"
)

func main() { command.Main(run) }

// promised is the most that the p99 beside hostile endpoints may be of the one without.
const promised = 1.5

// every is the time from one message to the next.
const every = 5 * time.Millisecond

func run(ctx context.Context, args []string, out io.Writer) error {
	messages, rounds := 600, 7
	flags := flag.NewFlagSet("push", flag.ContinueOnError)
	flags.IntVar(&rounds, "rounds", rounds, "rounds, alone and beside hostile endpoints in turn")
	flags.IntVar(&messages, "messages", messages, "messages of one round, 200 a second")
	profile := flags.String("profile", "", "`file` for a CPU profile of this process, which has the endpoints, too")
	check := flags.Bool("check", false, "fail if the promise is broken")
	short := flags.Bool("short", false, "1 round of 100 messages: shows that it works, judges nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		messages, rounds = 100, 1
	}
	if rounds < 1 || messages < 1 {
		return errors.New("-rounds and -messages must be at least 1")
	}
	if *profile != "" {
		stop, err := command.Profile(*profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	ctx = auth.With(ctx, auth.Anonymous())
	b, err := open(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	arrived := make(chan time.Time, messages)
	quick := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- time.Now()
	}))
	defer quick.Close()
	queue, err := b.queue(ctx, "quick", quick.URL)
	if err != nil {
		return err
	}
	hostile, stop, err := b.hostile(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if _, err := b.pace(ctx, queue, arrived, messages); err != nil { // So that as many calls as needed may be made at a time.
		return err
	}
	var alone, beside figures
	for range rounds {
		if err := alone.add(b.pace(ctx, queue, arrived, messages)); err != nil {
			return err
		}
		for _, q := range hostile {
			if _, err := b.service.ResumeQueue(ctx, q); err != nil {
				return err
			}
		}
		time.Sleep(time.Second) // The calls to the hostile endpoints are under way.
		if err := beside.add(b.pace(ctx, queue, arrived, messages)); err != nil {
			return err
		}
		for _, q := range hostile {
			if _, err := b.service.PauseQueue(ctx, q); err != nil {
				return err
			}
		}
		time.Sleep(time.Second) // Those that can end have ended.
	}
	ratio := beside.p99() / alone.p99()
	fmt.Fprintf(out, "from Publish to the endpoint, ms: median of the rounds (least..most)\n\n%-8s %-26s %s\n", "", "p50", "p99")
	fmt.Fprintf(out, "%-8s %-26s %s\n%-8s %-26s %s\n\np99: %.2f, promised is %.1f at most; the endpoints of %d queues were called %d times\n",
		"alone", spread(alone.halves), spread(alone.tails), "beside", spread(beside.halves), spread(beside.tails), ratio, promised, len(hostile), b.calls.Load())
	if *check && ratio > promised {
		return errors.New("the promise is broken")
	}
	return nil
}

// pace publishes messages at an even pace, and returns how long each took to the endpoint. They come about in the order in which they were
// published, so the times are those of the nth message and the nth call.
func (b *bench) pace(ctx context.Context, queue message.QueueName, arrived <-chan time.Time, n int) (took []time.Duration, err error) {
	sent := make([]time.Time, n)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for i := range sent {
		<-ticks.C
		sent[i] = time.Now()
		if _, err := b.service.Publish(ctx, message.Publication{To: message.ToQueue(queue), Body: []byte("quick")}); err != nil {
			return nil, err
		}
	}
	for i := range sent {
		select {
		case at := <-arrived:
			took = append(took, at.Sub(sent[i]))
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return took, nil
}

// figures are those of rounds, in milliseconds.
type figures struct{ halves, tails []float64 }

func (f *figures) add(took []time.Duration, err error) error {
	if err != nil {
		return err
	}
	slices.Sort(took)
	at := func(part float64) float64 { return took[int(part*float64(len(took)-1))].Seconds() * 1000 }
	f.halves, f.tails = append(f.halves, at(0.5)), append(f.tails, at(0.99))
	return nil
}

func (f *figures) p99() float64 { return median(f.tails) }

func spread(values []float64) string {
	return fmt.Sprintf("%.1f (%.1f..%.1f)", median(values), slices.Min(values), slices.Max(values))
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
