package message

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"plinth/internal/loop"
	"plinth/internal/observe"
)

// sweepInterval is how often one of the workers removes what has expired.
const sweepInterval = 5 * time.Minute

// sealInterval is how often one of the workers seals secrets anew.
const sealInterval = 24 * time.Hour

// Work carries out redrives and purges until ctx ends, which several workers share, and reads the figures of the queues and what they
// hold, which one of them does.
func (s *Service) Work(ctx context.Context) error {
	var measuring sync.WaitGroup
	defer measuring.Wait()
	measuring.Go(func() { defer observe.LogPanic(s.log); s.system.Periodically(ctx, s.measuring()) })
	if s.countsDepths {
		measuring.Go(func() { defer observe.LogPanic(s.log); s.system.Periodically(ctx, s.countingDepths()) })
	}
	return s.operations.Run(ctx)
}

// Jobs are this domain's own.
func (s *Service) Jobs() []loop.Job {
	return []loop.Job{
		{Name: "message-sweep", About: "removes dead letters, keys and what else of messages has been kept long enough", Interval: sweepInterval, Run: s.sweep},
		{Name: "message-secrets", About: "encrypts secrets of pushes with the first of SECRET_KEYS", Interval: sealInterval, Run: s.sealAnew},
	}
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
