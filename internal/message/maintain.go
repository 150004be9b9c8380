package message

import (
	"context"
	"errors"
	"fmt"
	"time"

	"plinth/internal/pg"
)

// sweepInterval is how often one of the workers removes what has expired.
const sweepInterval = time.Minute

// Work carries out redrives and purges until ctx ends. Several workers share them.
func (s *Service) Work(ctx context.Context) error { return s.operations.Run(ctx) }

// Periodic is the work of one worker once in an interval: it removes what has been kept long enough.
func (s *Service) Periodic() []pg.Periodic {
	return []pg.Periodic{{Name: "message sweep", Interval: sweepInterval, Work: s.sweep, Log: s.log}}
}

// sweep removes everything that has expired, in small transactions.
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
