package message

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// sweepInterval is how often what is over is removed, less a random part of up to a half, so that workers that started
// together do not go on together.
const sweepInterval = time.Minute

// Work works at redrives and purges, and removes what has been kept long enough, until ctx ends. Any number of
// workers may do it at the same time. A failure is logged and tried again.
func (s *Service) Work(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.operations.Run(ctx) })
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(sweepInterval - rand.N(sweepInterval/2)):
				s.sweep(ctx)
			}
		}
	})
	return group.Wait()
}

// sweep removes all that has been kept long enough, in small transactions.
func (s *Service) sweep(ctx context.Context) {
	for _, kept := range retention {
		for {
			n, err := deleteExpired(ctx, s.system, kept.table, kept.expired)
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("what has been kept long enough is not removed, trying again later", zap.String("what", kept.what), zap.Error(err))
				}
				break
			}
			if n < sweepBatch {
				break
			}
		}
	}
}
