package tenant

import (
	"context"
	"time"
)

const (
	foldEvery = 15 * time.Second // how often one process adds up the deltas
	foldBatch = 10_000           // deltas in one statement
)

// foldUsage adds all deltas to the usage.
func (s *Service) foldUsage(ctx context.Context) error {
	for {
		n, err := foldUsage(ctx, s.system, foldBatch)
		if err != nil || n < foldBatch {
			return err
		}
	}
}
