package message

import (
	"context"
	"errors"
	"fmt"
	"time"

	"plinth/internal/pg"
)

// sweepInterval is how often what is over is removed, by one of the workers.
const sweepInterval = time.Minute

// Work works at redrives and purges until ctx ends. Workers share them.
func (s *Service) Work(ctx context.Context) error { return s.operations.Run(ctx) }

// Jobs are what one of the workers does once in a while: it removes what has been kept long enough.
func (s *Service) Jobs() []pg.Periodic {
	return []pg.Periodic{{Name: "message sweep", Interval: sweepInterval, Work: s.sweep, Log: s.log}}
}

// sweep removes all that has been kept long enough, in small transactions.
func (s *Service) sweep(ctx context.Context) error {
	var failed error
	for _, rule := range retention {
		for n := int64(sweepBatch); n == sweepBatch; {
			var err error
			if n, err = deleteExpired(ctx, s.system, rule.table, rule.expired); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", rule.what, err))
			}
		}
	}
	return failed
}
