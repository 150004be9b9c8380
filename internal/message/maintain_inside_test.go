package message

import "context"

// This file exports to the tests of the external test package.

// Sweep is one round of what Work does each minute.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }

// StepAll does what the workers do with running operations.
func (s *Service) StepAll(ctx context.Context) (progress bool, err error) { return s.stepAll(ctx) }

// ClearLate acts like a process that claimed a deleted queue and continues after others have finished.
func (s *Service) ClearLate(ctx context.Context, queue QueueName) (done bool, err error) {
	return s.clear(ctx, newIntent(queue))
}

// Count adds traffic to the counters of a queue.
func (s *Service) Count(tenant string, queue QueueName, published, delivered, acknowledged int64) {
	c := s.rates.of(tenantQueue{tenant, queue})
	c.published.Add(published)
	c.delivered.Add(delivered)
	c.acknowledged.Add(acknowledged)
}
