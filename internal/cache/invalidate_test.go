package cache_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/broker/postgres"
	"plinth/internal/cache"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
	"plinth/internal/message"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// node is the cache of one process, whose relay runs.
type node struct {
	*cache.Service
	db    *pg.DB
	redis redis.UniversalClient
	leave func() // stops the relay
	end   func() // ends the rest of the process but its connections, and waits for it
}

func newNode(t *testing.T, databaseURL, redisURL string) node {
	t.Helper()
	n, end, err := openNode(databaseURL, redisURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	n.SetReplyLimit(patience)
	return n
}

func openNode(databaseURL, redisURL string) (n node, end func(), err error) {
	db, err := pg.Open(context.Background(), pg.Config{URL: databaseURL, MaxConns: 8})
	if err != nil {
		return n, nil, err
	}
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: databaseURL, Log: zap.NewNop()})
	if err != nil {
		return n, nil, err
	}
	messages := message.New(message.Config{
		DB: db, Handlers: db, System: db.System(), Notifier: notifier, Broker: postgres.New(db.System(), notifier, zap.NewNop()), Log: zap.NewNop(),
	})
	n = node{db: db}
	if n.redis, err = kv.Open(redisURL); err != nil {
		return n, nil, err
	}
	n.Service = cache.New(cache.Config{Redis: n.redis, Messages: messages, Limits: cache.Limits{MaxValueSize: 1 << 20}})
	ctx, cancel := context.WithCancel(context.Background())
	n.leave = cancel
	running, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { notifier.Run(ctx) })
	parts.Go(func() { _ = messages.Relay(ctx) })
	run := n.Run
	parts.Go(func() { _ = run(running) })
	n.end = func() { cancel(); stop(); parts.Wait() }
	return n, func() { n.end(); _ = n.redis.Close(); db.Close() }, nil
}

func waiting(t *testing.T, ctx context.Context, db *pg.DB) (n int) {
	t.Helper()
	if err := db.QueryRow(ctx, `SELECT count(*) FROM message_waiting`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestInvalidateTx changes what was loaded, in every way in which that can end. R13, R16
func TestInvalidateTx(t *testing.T) {
	t.Parallel()
	databaseURL, redisURL := pgtest.New(t), kvtest.New(t, nil).URL
	reader := newNode(t, databaseURL, redisURL)
	failed := errors.New("failed")
	for name, c := range map[string]struct {
		broken bool                                                    // the writer's Redis is gone before the mark
		tx     func(ctx context.Context, writer node, tx *pg.Tx) error // after InvalidateTx
		reads  int64                                                   // what is read after it
	}{
		"commit":   {tx: func(context.Context, node, *pg.Tx) error { return nil }, reads: 2},
		"rollback": {tx: func(context.Context, node, *pg.Tx) error { return failed }, reads: 1},
		"the process is gone after the mark": {tx: func(_ context.Context, writer node, tx *pg.Tx) error {
			tx.BeforeCommit(func() { writer.leave(); _ = writer.redis.Close() })
			return nil
		}, reads: 2},
		"the process has no Redis": {broken: true, tx: func(context.Context, node, *pg.Tx) error { return nil }, reads: 2},
	} {
		t.Run(name, func(t *testing.T) {
			writer, ctx := newNode(t, databaseURL, redisURL), auth.AsService(t.Context(), auth.DefaultTenant)
			truth := atomic.Int64{}
			truth.Store(1)
			read := func() int64 {
				v, err := cache.Remember(ctx, reader.Service, name, time.Hour, func(context.Context) (int64, error) { return truth.Load(), nil })
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			if v := read(); v != 1 {
				t.Fatal(v)
			}
			if c.broken {
				writer.leave() // Its relay would try, and leave the row to others only after a while.
				_ = writer.redis.Close()
			}
			err := writer.db.InTx(ctx, func(tx *pg.Tx) error {
				tx.AfterCommit(func() {
					truth.Store(2)
					if v := read(); v != 2 && !c.broken {
						t.Errorf("right after the commit it reads %d", v)
					}
				})
				if err := writer.InvalidateTx(ctx, tx, name); err != nil {
					return err
				}
				if v := read(); v != 1 {
					t.Errorf("before the commit it reads %d", v)
				}
				return c.tx(ctx, writer, tx)
			})
			if err != nil && !errors.Is(err, failed) {
				t.Fatal(err)
			}
			if !c.broken && read() != c.reads {
				t.Errorf("it reads %d", read())
			}
			eventually(t, "it reads what is true", func() bool { return read() == c.reads })
			eventually(t, "no row is left", func() bool { return waiting(t, ctx, reader.db) == 0 })
			eventually(t, "no mark is left", func() bool {
				marks := kv.Key(auth.DefaultTenant, "cache-marks", name)
				n, err := reader.redis.ZCount(ctx, marks, "1", "+inf").Result()
				return err == nil && n == 0
			})
		})
	}
	t.Run("by hand, before the commit", func(t *testing.T) { // The wrong way, to see that the right one is needed.
		ctx, truth := auth.AsService(t.Context(), auth.DefaultTenant), atomic.Int64{}
		load := func(context.Context) (int64, error) { return truth.Load(), nil }
		if err := reader.db.InTx(ctx, func(*pg.Tx) error {
			if err := reader.Invalidate(ctx, "by hand"); err != nil {
				return err
			}
			_, err := cache.Remember(ctx, reader.Service, "by hand", time.Hour, load)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		truth.Store(1)
		if v, err := cache.Remember(ctx, reader.Service, "by hand", time.Hour, load); err != nil || v != 0 {
			t.Errorf("%d %v", v, err)
		}
	})
}

// The rows of transactions whose process could invalidate are canceled. No relay runs that would take them.
func TestRowsAreCanceled(t *testing.T) {
	t.Parallel()
	n := newNode(t, pgtest.New(t), kvtest.New(t, nil).URL)
	n.leave()
	ctx := auth.AsService(t.Context(), auth.DefaultTenant)
	for range 20 {
		if err := n.db.InTx(ctx, func(tx *pg.Tx) error { return n.InvalidateTx(ctx, tx, "k") }); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no row is left", func() bool { return waiting(t, ctx, n.db) == 0 })
	if err := n.db.InTx(ctx, func(tx *pg.Tx) error { return n.InvalidateTx(ctx, tx, "k") }); err != nil {
		t.Fatal(err)
	}
	if n.end(); waiting(t, ctx, n.db) > 0 {
		t.Error("a row is left when the process ends")
	}
}

// TestRace has readers and writers in two processes, with delays at every seam and transactions that are rolled back. A reader that
// comes after a commit never gets what was before it.
func TestRace(t *testing.T) {
	t.Parallel()
	length := time.Second
	if os.Getenv("CI") == "true" {
		length = time.Minute
	}
	databaseURL, redisURL := pgtest.New(t), kvtest.New(t, nil).URL
	ctx, failed := auth.AsService(t.Context(), auth.DefaultTenant), errors.New("failed")
	var truth, floor atomic.Int64 // what is committed, and what every reader has to see
	var reads, writes atomic.Int64
	var turn sync.Mutex
	stop := time.Now().Add(length)
	var all sync.WaitGroup
	pause := func() { time.Sleep(rand.N(3 * time.Millisecond)) }
	for range 2 {
		n := newNode(t, databaseURL, redisURL)
		for range 8 {
			all.Go(func() {
				for time.Now().Before(stop) {
					least := floor.Load()
					v, err := cache.Remember(ctx, n.Service, "k", time.Hour, func(context.Context) (int64, error) {
						v := truth.Load()
						pause()
						return v, nil
					})
					if err != nil || v < least {
						t.Errorf("it reads %d after %d was committed, %v", v, least, err)
						return
					}
					if reads.Add(1)%50 == 0 {
						pause()
					}
				}
			})
		}
		all.Go(func() {
			for time.Now().Before(stop) {
				err := n.db.InTx(ctx, func(tx *pg.Tx) error {
					turn.Lock()
					next := truth.Load() + 1
					committed := false
					defer func() {
						if !committed {
							turn.Unlock()
						}
					}()
					if err := n.InvalidateTx(ctx, tx, "k"); err != nil {
						return err
					}
					pause()
					if rand.N(4) == 0 {
						return failed
					}
					committed = true
					tx.BeforeCommit(func() { // It takes the place of the commit: from here on it is true.
						pause()
						truth.Store(next)
						floor.Store(next)
						turn.Unlock()
						pause()
					})
					return nil
				})
				if err != nil && !errors.Is(err, failed) {
					t.Error(err)
					return
				}
				writes.Add(1)
				time.Sleep(rand.N(10 * time.Millisecond))
			}
		})
	}
	all.Wait()
	t.Logf("%d reads, %d writes", reads.Load(), writes.Load())
}
