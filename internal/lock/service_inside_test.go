package lock

import "context"

// Sweep is what the periodic work does.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }
