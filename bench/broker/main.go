// Command broker measures the broker in PostgreSQL in a database with very many messages, and how its tables fare while messages come and
// go. ../README.md explains how to read it.
//
// It needs a PostgreSQL, DATABASE_URL, in which it makes a database and drops it again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"plinth/bench/command"
	"plinth/bench/scratch"
	"plinth/internal/broker"
	"plinth/internal/broker/postgres"
	"plinth/internal/pg"
)

func main() { command.Main(run) }

// sizes are what is generated, and for how long it is used.
type sizes struct {
	messages, leased, queues, tries int
	churn, report                   time.Duration
	rate                            int
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	var s sizes
	flags := flag.NewFlagSet("broker", flag.ContinueOnError)
	flags.IntVar(&s.messages, "messages", 1_000_000, "messages in one queue")
	flags.IntVar(&s.leased, "leased", 100_000, "how many of these are leased")
	flags.IntVar(&s.queues, "queues", 10_000, "queues")
	flags.IntVar(&s.tries, "tries", 500, "times that each operation is measured")
	flags.DurationVar(&s.churn, "churn", time.Hour, "for how long messages come and go afterwards")
	flags.IntVar(&s.rate, "rate", 200, "messages a second that come and go")
	short := flags.Bool("short", false, "10,000 messages and 10 seconds: shows that it works")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if s.report = time.Minute; *short {
		s = sizes{messages: 10_000, leased: 1000, queues: 100, tries: 50, churn: 10 * time.Second, report: 5 * time.Second, rate: 100}
	}
	url, drop, err := scratch.Database(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	owner, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer owner.Close()
	b, stop, err := start(ctx, url)
	if err != nil {
		return err
	}
	defer stop()
	if err := generate(ctx, owner, b, s); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d messages in one of %d queues, %d of them leased\n\n", s.messages, s.queues, s.leased)
	if err := measure(ctx, out, b, s); err != nil {
		return err
	}
	return churn(ctx, out, owner, b, s)
}

// start runs a broker on a database.
func start(ctx context.Context, url string) (broker.Broker, func(), error) {
	db, err := pg.Open(ctx, pg.Config{URL: url, MaxConns: 8})
	if err != nil {
		return nil, nil, err
	}
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: url, Log: zap.NewNop()})
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	b := postgres.New(db.System(), notifier, zap.NewNop())
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { notifier.Run(ctx) })
	running.Go(func() { _ = b.Run(ctx) })
	return b, func() { cancel(); running.Wait(); db.Close() }, nil
}

const (
	large = "default.large"
	small = "default.small"
)

func generate(ctx context.Context, owner *pgxpool.Pool, b broker.Broker, s sizes) error {
	for _, queue := range []string{large, small} {
		if err := b.Declare(ctx, broker.Queue{Name: queue}); err != nil {
			return err
		}
	}
	if _, err := owner.Exec(ctx, `INSERT INTO broker_queues (name) SELECT 'default.q' || n FROM generate_series(3, $1::int) n`, s.queues); err != nil {
		return err
	}
	_, err := owner.Exec(ctx, `INSERT INTO broker_messages (queue_id, tenant, id, attributes, body, lease, available_at)
		SELECT q.id, 'default', gen_random_uuid(), '{}', convert_to(repeat('x', 256), 'UTF8'), CASE WHEN n <= $3::int THEN gen_random_uuid() END,
			now() + interval '1 day'
		FROM broker_queues q, generate_series(1, $2::int) n WHERE q.name = $1 ORDER BY n`, large, s.messages, s.leased)
	if err == nil {
		_, err = owner.Exec(ctx, `ANALYZE`)
	}
	return err
}

func publish(ctx context.Context, b broker.Broker, queue string) error {
	return b.Publish(ctx, broker.Address{Queue: queue}, newMessage())
}

func newMessage() broker.Message {
	return broker.Message{ID: uuid.Must(uuid.NewV7()).String(), Body: make([]byte, 256)}
}

// measure prints how long operations take, one after the other.
func measure(ctx context.Context, out io.Writer, b broker.Broker, s sizes) error {
	fmt.Fprintf(out, "| operation | p50 ms | p99 ms |\n| --- | --- | --- |\n")
	for _, queue := range []string{large, small} {
		if err := timed(ctx, out, "publish to "+queue, s.tries, func() error { return publish(ctx, b, queue) }); err != nil {
			return err
		}
		sub, err := b.Subscribe(ctx, queue, 1)
		if err != nil {
			return err
		}
		err = errors.Join(
			timed(ctx, out, "receive, nack and publish in "+queue, s.tries/2, func() error {
				d, err := sub.Receive(ctx)
				if err != nil {
					return err
				}
				return errors.Join(d.Nack(ctx), publish(ctx, b, queue)) // It is left to others for a moment.
			}),
			timed(ctx, out, "receive and ack in "+queue, s.tries, func() error {
				d, err := sub.Receive(ctx)
				if err != nil {
					return err
				}
				return d.Ack(ctx)
			}))
		sub.Close()
		if err != nil {
			return err
		}
	}
	return timed(ctx, out, "count "+large, 5, func() error { _, err := b.Ready(ctx, large); return err })
}

func timed(ctx context.Context, out io.Writer, what string, tries int, do func() error) error {
	took := make([]time.Duration, 0, tries)
	for range tries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		began := time.Now()
		if err := do(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		took = append(took, time.Since(began))
	}
	fmt.Fprintf(out, "| %s | %s |\n", what, quantiles(took))
	return nil
}

func quantiles(took []time.Duration) string {
	if len(took) == 0 {
		return "- | -"
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%.2f | %.2f", ms(took[len(took)/2]), ms(took[len(took)*99/100]))
}
