package tenant

import (
	"context"
	"time"
)

const (
	foldEvery = 5 * time.Second // differences of what tenants have are added up, by one process
	foldBatch = 10_000          // in one statement
)

// foldUsage adds up the differences of what tenants have.
func (s *Service) foldUsage(ctx context.Context) error {
	for {
		n, err := foldUsage(ctx, s.system, foldBatch)
		if err != nil || n < foldBatch {
			return err
		}
	}
}
