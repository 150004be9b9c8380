package message

import "context"

// What the tests outside of the package may do that nobody else may.

// Sweep is one round of what Work does each minute.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }

// StepAll is what the workers do with the operations that run.
func (s *Service) StepAll(ctx context.Context) (progress bool, err error) { return s.stepAll(ctx) }

// ClearLate does what a process does that took a deleted queue in hand and comes to it when others are done.
func (s *Service) ClearLate(ctx context.Context, queue QueueName) (done bool, err error) {
	return s.clear(ctx, newIntent(queue))
}

// Count counts as if so much had gone through a queue.
func (s *Service) Count(tenant string, queue QueueName, published, delivered, acknowledged int64) {
	c := s.rates.of(tenantQueue{tenant, queue})
	c.published.Add(published)
	c.delivered.Add(delivered)
	c.acknowledged.Add(acknowledged)
}
