package schedule

import (
	"context"
	"time"
)

// Wake looks for what is due, as a worker does whenever it is woken.
func (s *Service) Wake(ctx context.Context) (next time.Duration, err error) {
	return s.tick(ctx, func() {})
}
