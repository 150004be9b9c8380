package note

import "context"

// Expire is one round of the job.
func (s *Service) Expire(ctx context.Context) error { return s.expire(ctx) }
