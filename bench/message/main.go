// Command message measures what messages cost. It compares Plinth's ways to publish, to relay and to consume with raw
// amqp091-go, its effect-once transaction with a bare one, and one tenant's messages alone with those beside another's storms, all in the same
// run. ../README.md explains how to read it.
//
// It needs a RabbitMQ and a PostgreSQL that nobody else uses meanwhile: AMQP_URL and DATABASE_URL.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	"plinth/bench/command"
	"plinth/internal/auth"
)

func main() { command.Main(run) }

const (
	callers = 64  // publish at the same time
	window  = 256 // unconfirmed messages of the raw publisher
	credit  = 64  // outstanding messages of either consumer
	size    = 256 // bytes of a payload
)

// contest compares one of our ways with a baseline, in messages a second.
type contest struct {
	name       string
	promise    float64 // the least ratio; 0 means no promise
	bare, ours func(ctx context.Context, n int) (time.Duration, error)
	share      int // divides the messages of a round, for contests that are slow
}

func run(ctx context.Context, args []string, out io.Writer) error {
	messages, rounds := 50_000, 5
	flags := flag.NewFlagSet("message", flag.ContinueOnError)
	flags.IntVar(&rounds, "rounds", rounds, "rounds of each contest")
	flags.IntVar(&messages, "messages", messages, "messages of one round")
	check := flags.Bool("check", false, "fail if a promise is broken")
	beside := flags.Bool("neighbours", false, "measure one tenant's messages beside another's storms, in place of the contests")
	only := flags.String("only", "", "the one `contest` to run; with -neighbours the storms whose names, such as postgres/keyed, begin so")
	profile := flags.String("profile", "", "`file` for a CPU profile of this process, of the whole run")
	short := flags.Bool("short", false, "1 round of 1,000 messages, and small storms: shows that it works, not what it costs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		messages, rounds = 1_000, 1
	}
	if rounds < 1 || messages < callers {
		return fmt.Errorf("-rounds must be at least 1 and -messages at least %d", callers)
	}
	if *profile != "" {
		stop, err := command.Profile(*profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	ctx = auth.With(ctx, auth.Anonymous())
	var broken []error
	if !*beside {
		var err error
		if broken, err = contests(ctx, out, messages, rounds, *only); err != nil {
			return err
		}
	}
	if *beside || *short {
		s := fullSizes
		if *short {
			s = shortSizes
		}
		more, err := neighbours(ctx, out, s, *only)
		if err != nil {
			return err
		}
		broken = append(broken, more...)
	}
	if *check {
		return errors.Join(broken...)
	}
	return nil
}

func contests(ctx context.Context, out io.Writer, messages, rounds int, only string) (broken []error, err error) {
	b, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	fmt.Fprintf(out, "Messages a second: median (least..most)\n\n%-22s %-26s %-26s %7s %9s\n",
		"contest", "baseline", "Plinth", "ratio", "promised")
	for _, c := range b.contests() {
		if only != "" && only != c.name {
			continue
		}
		if err := c.run(ctx, out, max(messages/c.share, callers), rounds); errors.As(err, new(brokenPromise)) {
			broken = append(broken, err)
		} else if err != nil {
			return broken, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return broken, nil
}

type brokenPromise string

func (b brokenPromise) Error() string { return string(b) }

// run lets the two take turns, so that other work of the machine affects both.
func (c contest) run(ctx context.Context, out io.Writer, n, rounds int) error {
	var bare, ours []float64
	measure := func(way func(context.Context, int) (time.Duration, error), to *[]float64) error {
		took, err := way(ctx, n)
		*to = append(*to, float64(n)/took.Seconds())
		return err
	}
	for range rounds {
		if err := measure(c.bare, &bare); err != nil {
			return fmt.Errorf("baseline: %w", err)
		}
		if err := measure(c.ours, &ours); err != nil {
			return err
		}
	}
	ratio := median(ours) / median(bare)
	promised := ""
	if c.promise > 0 {
		promised = fmt.Sprintf("%.2f", c.promise)
	}
	fmt.Fprintf(out, "%-22s %-26s %-26s %7.2f %9s\n", c.name, spread(bare), spread(ours), ratio, promised)
	if ratio < c.promise {
		return brokenPromise(fmt.Sprintf("%s is %.2f of its baseline, promised is %.2f at least", c.name, ratio, c.promise))
	}
	return nil
}

func spread(rates []float64) string {
	return fmt.Sprintf("%.0f (%.0f..%.0f)", median(rates), slices.Min(rates), slices.Max(rates))
}

func median(rates []float64) float64 {
	sorted := slices.Sorted(slices.Values(rates))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
