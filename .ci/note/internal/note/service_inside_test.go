package note

import "context"

// Expire is what the periodic work does.
func (s *Service) Expire(ctx context.Context) error { return s.expire(ctx) }
