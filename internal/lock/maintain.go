package lock

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

const (
	sweepEvery = time.Minute
	sweepBatch = 10_000 // rows in one statement
	// idleFor is how long a lock that nobody has keeps its row. The token of a row that goes must be that old, too: then a clock
	// that was not set back by more gives a greater one to whoever takes the lock meanwhile, without having seen the floor.
	idleFor   = time.Minute
	forcedFor = 90 * 24 * time.Hour
	// maxCounted is among how many rows the locks that somebody has are counted, which bounds the time that it takes.
	maxCounted = 100_000
)

// Jobs are this domain's own.
func (s *Service) Jobs() []loop.Job {
	return []loop.Job{{Name: "lock-sweep", About: "removes locks and waiters that nobody has any more, and counts the others", Interval: sweepEvery, Run: s.sweep}}
}

// sweep removes everything that is over, in small transactions, and counts the locks that are left.
func (s *Service) sweep(ctx context.Context) error {
	var failed error
	for _, remove := range []func(context.Context, *pg.System, int) (int, error){
		deleteIdle, deleteLapsedWaiters, deleteLapsedProcesses, deleteOldForced,
	} {
		for n := sweepBatch; n == sweepBatch; {
			var err error
			if n, err = remove(ctx, s.system, sweepBatch); err != nil {
				failed = errors.Join(failed, err)
			}
		}
	}
	held, err := countHeld(ctx, s.system, maxCounted)
	if err == nil {
		s.metrics.held.Set([]prometheus.Metric{observe.Gauge(s.metrics.heldNow, float64(held))})
	}
	return errors.Join(failed, err)
}
