// Command lock measures how many locks a second are taken and released, and how long it takes from a release to the next holder, beside
// what bare PostgreSQL and Redis do, in the same run. ../README.md explains how to read it.
//
// It needs PostgreSQL (DATABASE_URL) and Redis (REDIS_URL), by default those on this machine, and makes a database of its own.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/bench/command"
	"plinth/bench/scratch"
	"plinth/internal/auth"
	"plinth/internal/kv"
	"plinth/internal/lock"
	"plinth/internal/pg"
)

// What is promised.
const (
	clients     = 32
	correct     = 1_500 // pairs a second
	fast        = 10_000
	handOverP50 = 5 * time.Millisecond
	handOverP99 = 50 * time.Millisecond
)

func main() { command.Main(run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("lock", flag.ContinueOnError)
	rounds := flags.Int("rounds", 3, "rounds, of which the median counts")
	length := flags.Duration("for", 5*time.Second, "how long each contest of a round takes")
	check := flags.Bool("check", false, "fail if a promise is broken")
	short := flags.Bool("short", false, "1 round of 200 ms: shows that it works, not what it costs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		*rounds, *length = 1, 200*time.Millisecond
	}
	b, err := open(ctx)
	defer b.close()
	if err != nil {
		return err
	}
	ctx = auth.AsService(ctx, "acme")
	rates := map[string][]float64{}
	var waits []time.Duration
	names := []string{"postgres", "correct, new names", "correct, same names", "redis", "fast"}
	for range *rounds {
		for _, name := range names {
			rate, err := b.pairs(ctx, *length, b.contest(name))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			rates[name] = append(rates[name], rate)
		}
		more, err := b.handOvers(ctx, *length)
		if err != nil {
			return fmt.Errorf("hand-over: %w", err)
		}
		waits = append(waits, more...)
	}
	for _, name := range names {
		slices.Sort(rates[name])
		fmt.Fprintf(out, "%-20s %6.0f pairs a second (%.0f..%.0f)\n", name, median(rates[name]), rates[name][0], rates[name][*rounds-1])
	}
	slices.Sort(waits)
	p50, p99 := waits[len(waits)/2], waits[len(waits)*99/100]
	fmt.Fprintf(out, "%-20s p50 %v, p99 %v of %d\n", "hand-over", p50, p99, len(waits))
	if *check && (median(rates["correct, new names"]) < correct || median(rates["fast"]) < fast || p50 > handOverP50 || p99 > handOverP99) {
		return errors.New("a promise is broken")
	}
	return nil
}

func median(sorted []float64) float64 { return sorted[len(sorted)/2] }

// bench is what the contests use: two services, as of two processes, and bare connections.
type bench struct {
	ctx   context.Context // of the services
	ends  []func()
	nodes []*lock.Service
	db    *pg.DB
	redis redis.UniversalClient
}

func (b *bench) close() {
	for _, end := range slices.Backward(b.ends) {
		end()
	}
}

func open(ctx context.Context) (*bench, error) {
	b := &bench{}
	var stop context.CancelFunc
	b.ctx, stop = context.WithCancel(context.WithoutCancel(ctx))
	databaseURL, drop, err := scratch.Database(ctx)
	if err != nil {
		stop()
		return b, err
	}
	b.ends = append(b.ends, func() { _ = drop() }, stop)
	if b.redis, err = kv.Open(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379/0")); err != nil {
		return b, err
	}
	for range 2 {
		db, err := pg.Open(ctx, pg.Config{URL: databaseURL, MaxConns: 16})
		if err != nil {
			return b, err
		}
		notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: databaseURL, Log: zap.NewNop()})
		if err != nil {
			return b, err
		}
		s := lock.New(lock.Config{DB: db, System: db.System(), Notifier: notifier, Redis: b.redis, Log: zap.NewNop()})
		var running sync.WaitGroup
		running.Go(func() { notifier.Run(b.ctx) })
		running.Go(func() { _ = s.Run(b.ctx) })
		b.ends = append(b.ends, func() { stop(); running.Wait(); db.Close() })
		b.nodes, b.db = append(b.nodes, s), db
	}
	return b, nil
}

// contest returns a function that takes and releases a lock; i counts the locks of a client.
func (b *bench) contest(name string) func(ctx context.Context, client, i int) error {
	switch name {
	case "postgres": // A row that is written and changed, each on disk: what a lock in a table costs without any rules.
		return func(ctx context.Context, client, i int) error {
			name := fmt.Sprint("bare ", client, i)
			_, err := b.db.Exec(ctx, `INSERT INTO locks (tenant, name, token, lease_id, holder, owner, ttl, acquired_at, expires_at)
				VALUES ('acme', $1, 1, gen_random_uuid(), '', '', '1 minute', now(), now()) ON CONFLICT DO NOTHING`, name)
			if err == nil {
				_, err = b.db.Exec(ctx, `UPDATE locks SET lease_id = NULL WHERE tenant = 'acme' AND name = $1`, name)
			}
			return err
		}
	case "redis":
		return func(ctx context.Context, client, _ int) error {
			key := kv.Key("acme", "bench", strconv.Itoa(client))
			if err := b.redis.SetNX(ctx, key, "x", time.Minute).Err(); err != nil {
				return err
			}
			return b.redis.Del(ctx, key).Err()
		}
	default:
		isFast, isNew := name == "fast", name == "correct, new names"
		return func(ctx context.Context, client, i int) error {
			text := fmt.Sprint("bench ", client)
			if isNew {
				text = fmt.Sprint("bench ", uuid.New())
			}
			n, err := lock.ParseName(text)
			if err != nil {
				return err
			}
			l, err := b.nodes[0].Acquire(ctx, lock.Request{Name: n, Owner: "bench", Fast: isFast})
			if err == nil {
				_, err = b.nodes[0].Release(ctx, n, l.ID, isFast)
			}
			return err
		}
	}
}

// pairs returns how often a second the clients do something.
func (b *bench) pairs(ctx context.Context, length time.Duration, pair func(ctx context.Context, client, i int) error) (float64, error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	began := time.Now()
	for client := range clients {
		running.Go(func() {
			for i := 0; time.Since(began) < length && failed.Load() == nil; i++ {
				if err := pair(ctx, client, i); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / time.Since(began).Seconds(), nil
}

// handOvers has two processes hand over a lock, and returns how long each took from before the release until the next one had it.
func (b *bench) handOvers(ctx context.Context, length time.Duration) (took []time.Duration, err error) {
	name, err := lock.ParseName("handed over")
	if err != nil {
		return nil, err
	}
	request := lock.Request{Name: name, Owner: "bench", Wait: time.Minute}
	held, err := b.nodes[0].Acquire(ctx, request)
	if err != nil {
		return nil, err
	}
	type got struct {
		lock.Lease
		at  time.Time
		err error
	}
	for began, i := time.Now(), 1; time.Since(began) < length; i++ {
		next := make(chan got, 1)
		go func() {
			l, err := b.nodes[i%2].Acquire(ctx, request)
			next <- got{l, time.Now(), err}
		}()
		for waiters := int64(0); waiters == 0; time.Sleep(time.Millisecond) {
			l, err := b.nodes[0].Get(ctx, name)
			if err != nil {
				return nil, err
			}
			waiters = l.Waiters
		}
		released := time.Now()
		if _, err := b.nodes[(i+1)%2].Release(ctx, name, held.ID, false); err != nil {
			return nil, err
		}
		n := <-next
		if n.err != nil {
			return nil, n.err
		}
		held, took = n.Lease, append(took, n.at.Sub(released))
	}
	_, err = b.nodes[0].Release(ctx, name, held.ID, false)
	return took, err
}
