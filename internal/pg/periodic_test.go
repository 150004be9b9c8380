package pg_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// periodically runs p in the given number of processes until the test ends or stop is called.
func periodically(t *testing.T, db *pg.DB, p pg.Periodic, processes int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range processes {
		running.Go(func() { db.System().Periodically(ctx, p) })
	}
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

// However many processes there are, the work is done once per interval, and in every interval.
func TestPeriodicWorkIsDoneOnce(t *testing.T) {
	t.Parallel()
	const interval, rounds = 100 * time.Millisecond, 20
	done := make(chan time.Time, 1000)
	p := pg.Periodic{Name: "sweep", Interval: interval, Log: zap.NewNop(), Work: func(context.Context) error { done <- time.Now(); return nil }}
	began := time.Now()
	stop := periodically(t, open(t, pg.Config{URL: pgtest.New(t), MaxConns: 8}), p, 8)
	for range rounds {
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("nobody does it")
		}
	}
	stop()
	if took := time.Since(began); took < (rounds-2)*interval {
		t.Errorf("%d times within %v, with an interval of %v", rounds, took, interval)
	}
}

// Due work is taken over from a process that has died, work under another name is separate, and a failure does not stop the
// work.
func TestPeriodicWorkGoesOn(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t)})
	exec(t, db.System(), `INSERT INTO periodic VALUES ('sweep', now() + interval '200 ms'), ('other', now() + interval '1 hour')`)
	core, logs := observer.New(zap.DebugLevel)
	var calls atomic.Int32
	third := make(chan struct{})
	periodically(t, db, pg.Periodic{Name: "sweep", Interval: 100 * time.Millisecond, Log: zap.New(core), Work: func(context.Context) error {
		if calls.Add(1) == 3 {
			close(third)
		}
		return errors.New("no luck")
	}}, 1)
	periodically(t, db, pg.Periodic{Name: "other", Interval: 100 * time.Millisecond, Log: zap.NewNop(), Work: func(context.Context) error {
		t.Error("it was done before it was due")
		return nil
	}}, 1)
	select {
	case <-third:
	case <-time.After(patience):
		t.Fatal("it does not go on")
	}
	if n := logs.FilterMessage("periodic work failed, trying again in its next interval").Len(); n < 2 {
		t.Errorf("%d lines of failures", n)
	}
}
