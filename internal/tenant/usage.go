package tenant

import (
	"context"
	"time"
)

const (
	foldEvery = 30 * time.Second // how often the deltas are added up
	foldBatch = 10_000           // deltas in one statement
)

// foldUsage adds all deltas to the usage, and reads what there is for the metrics.
func (s *Service) foldUsage(ctx context.Context) error {
	for {
		n, err := foldUsage(ctx, s.system, foldBatch)
		if err != nil {
			return err
		}
		if n < foldBatch {
			return s.measure(ctx)
		}
	}
}
