package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/cache"
	"plinth/internal/kv/kvtest"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// The environment of a process that races: its database and its Redis.
const racerDatabase, racerRedis = "PLINTH_TEST_RACER_DATABASE", "PLINTH_TEST_RACER_REDIS"

// raceLoss is for how long a value may be old whose mark was lost: until the relay has invalidated it.
const raceLoss = 5 * time.Second

// TestRaceOfProcesses has processes that read and write be stopped for longer than a lease lasts, and killed, while a value is what
// is committed; and has Redis flushed and stopped, after which a value may be old for a bounded time.
func TestRaceOfProcesses(t *testing.T) {
	t.Parallel()
	r := newRace(t)
	for range 2 {
		r.start()
	}
	rounds := 1
	if os.Getenv("CI") == "true" {
		rounds = 4
	}
	for i := range rounds {
		r.calm(500 * time.Millisecond)
		r.stop(2500 * time.Millisecond)
		r.kill()
		r.calm(500 * time.Millisecond)
		r.lossy(func() { r.redis.Do(t, "FLUSHALL") })
		if r.calm(300 * time.Millisecond); i%2 == 1 {
			r.lossy(func() {
				r.redis.Pause(t)
				r.calm(300 * time.Millisecond)
				r.redis.Resume(t)
			})
			r.calm(time.Second)
		}
		if i < rounds-1 {
			r.calm(raceLoss + 2*time.Second)
		}
	}
	r.end()
}

// race is what is true, in the database, and the processes.
type race struct {
	t           *testing.T
	ctx         context.Context
	databaseURL string
	redis       *kvtest.Server
	children    []*osexec.Cmd
}

func newRace(t *testing.T) *race {
	t.Helper()
	r := &race{t: t, ctx: auth.AsService(t.Context(), auth.DefaultTenant), databaseURL: pgtest.New(t), redis: kvtest.New(t, nil)}
	// A reader has to see what is true when it comes; after a loss, what has been true for a while.
	r.exec(`CREATE TABLE truth (n bigint); INSERT INTO truth VALUES (0); CREATE TABLE commits (n bigint, at timestamptz DEFAULT clock_timestamp());
		CREATE TABLE losses (until timestamptz); INSERT INTO losses VALUES (now()); CREATE TABLE counts (reads bigint, old text);
		GRANT ALL ON truth, commits, losses, counts TO PUBLIC`)
	return r
}

func (r *race) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := pgtest.Owner(r.t, r.databaseURL).Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

// start starts a process of this test that races.
func (r *race) start() {
	c := osexec.Command(os.Args[0])
	c.Env = append(os.Environ(), racerDatabase+"="+r.databaseURL, racerRedis+"="+r.redis.URL)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Process.Kill() })
	r.children = append(r.children, c)
}

func (r *race) calm(d time.Duration) { <-time.After(d) }

func (r *race) stop(d time.Duration) {
	_ = r.children[0].Process.Signal(syscall.SIGSTOP)
	r.calm(d)
	_ = r.children[0].Process.Signal(syscall.SIGCONT)
}

func (r *race) kill() {
	r.children[0].Process.Kill()
	_ = r.children[0].Wait()
	r.children = r.children[1:]
	r.start()
}

// lossy has something happen by which marks and invalidations may be lost.
func (r *race) lossy(f func()) {
	r.exec(`UPDATE losses SET until = 'infinity'`)
	f()
	r.exec(`UPDATE losses SET until = clock_timestamp() + $1`, raceLoss)
}

// end ends the processes, and looks at what they have read.
func (r *race) end() {
	for _, c := range r.children {
		_ = c.Process.Signal(syscall.SIGTERM)
	}
	for _, c := range r.children {
		if err := c.Wait(); err != nil {
			r.t.Errorf("a process: %v", err)
		}
	}
	var reads, writes int64
	var old *string
	err := pgtest.Owner(r.t, r.databaseURL).QueryRow(r.ctx, `SELECT coalesce(sum(reads), 0), max(old), (SELECT n FROM truth) FROM counts`).Scan(&reads, &old, &writes)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.t.Logf("%d reads, %d writes", reads, writes); old != nil {
		r.t.Error(*old)
	}
	if reads < 100 || writes < 3 { // A busy machine writes little.
		r.t.Error("there was no race")
	}
	n := newNode(r.t, r.databaseURL, r.redis.URL)
	eventually(r.t, "all rows of invalidations are done", func() bool { return waiting(r.t, r.ctx, n.db) == 0 })
	if v, err := n.value(r.ctx); v != writes || err != nil {
		r.t.Errorf("in the end it reads %d %v, want %d", v, err, writes)
	}
}

// racer is the main function of such a process. It returns the status.
func racer() int {
	ctx, cancel := signal.NotifyContext(auth.AsService(context.Background(), auth.DefaultTenant), syscall.SIGTERM)
	defer cancel()
	n, end, err := openNode(os.Getenv(racerDatabase), os.Getenv(racerRedis))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer end()
	n.SetReplyLimit(500 * time.Millisecond)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() { n.readOn(ctx) })
	}
	for ctx.Err() == nil {
		_ = n.write(ctx)
		pause(20 * time.Millisecond)
	}
	all.Wait()
	return 0
}

func pause(most time.Duration) { time.Sleep(rand.N(most)) }

func (n node) value(ctx context.Context) (int64, error) {
	return cache.Remember(ctx, n.Service, "k", time.Hour, func(ctx context.Context) (v int64, err error) {
		err = n.db.QueryRow(ctx, `SELECT n FROM truth`).Scan(&v)
		pause(5 * time.Millisecond)
		return v, err
	})
}

// readOn reads, and notes what is older than it may be.
func (n node) readOn(ctx context.Context) {
	var reads int64
	var old *string
	for ctx.Err() == nil && old == nil {
		var least int64
		err := n.db.QueryRow(ctx, `SELECT CASE WHEN until < clock_timestamp() THEN (SELECT n FROM truth)
			ELSE (SELECT coalesce(max(n), 0) FROM commits WHERE at < clock_timestamp() - $1::interval) END FROM losses`, raceLoss).Scan(&least)
		if err != nil {
			continue
		}
		v, err := n.value(ctx)
		if err == nil && v < least {
			text := fmt.Sprintf("it reads %d, and %d is committed", v, least)
			old = &text
		}
		reads++
	}
	_, _ = n.db.Exec(context.WithoutCancel(ctx), `INSERT INTO counts VALUES ($1, $2)`, reads, old)
}

// write changes what is true, or rolls it back, with a pause at every seam.
func (n node) write(ctx context.Context) error {
	var next int64
	err := n.db.InTx(ctx, func(tx *pg.Tx) error {
		if err := tx.QueryRow(ctx, `UPDATE truth SET n = n + 1 RETURNING n`).Scan(&next); err != nil {
			return err
		}
		tx.BeforeCommit(func() { pause(3 * time.Millisecond) })
		tx.AfterCommit(func() { pause(10 * time.Millisecond) })
		if err := n.InvalidateTx(ctx, tx, "k"); err != nil {
			return err
		}
		tx.BeforeCommit(func() { pause(3 * time.Millisecond) })
		if pause(3 * time.Millisecond); rand.N(4) == 0 {
			return errors.New("rolled back")
		}
		return nil
	})
	if err == nil {
		_, err = n.db.Exec(ctx, `INSERT INTO commits (n) VALUES ($1)`, next)
	}
	return err
}
