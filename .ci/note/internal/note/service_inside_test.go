package note

import "context"

// Expire is what the job does.
func (s *Service) Expire(ctx context.Context) error { return s.expire(ctx) }
