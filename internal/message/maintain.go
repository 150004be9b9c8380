package message

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"plinth/internal/pg"
)

// sweepInterval is how often what is over is removed, by one of the workers.
const sweepInterval = time.Minute

// Work works at redrives and purges, and removes what has been kept long enough, until ctx ends. Workers share the
// former, and one of them does the latter.
func (s *Service) Work(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.operations.Run(ctx) })
	group.Go(func() error {
		s.system.Periodically(ctx, pg.Periodic{Name: "message sweep", Interval: sweepInterval, Work: s.sweep, Log: s.log})
		return nil
	})
	return group.Wait()
}

// sweep removes all that has been kept long enough, in small transactions.
func (s *Service) sweep(ctx context.Context) error {
	var failed error
	for _, kept := range retention {
		for n := int64(sweepBatch); n == sweepBatch; {
			var err error
			if n, err = deleteExpired(ctx, s.system, kept.table, kept.expired); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", kept.what, err))
			}
		}
	}
	return failed
}
