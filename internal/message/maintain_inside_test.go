package message

import (
	"context"
	"time"
)

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

// Measure reads the figures of the queues, as one of the workers does.
func (s *Service) Measure(ctx context.Context) error { return s.measure(ctx) }

// CountDepths counts what is in the queues, as one of the workers does for a broker that does not.
func (s *Service) CountDepths(ctx context.Context) error { return s.countDepths(ctx) }

// ShareBeyond has a worker share queues with others if there are more than n, and look for others twice a second.
func (w *Worker) ShareBeyond(n int) {
	w.roster.beyond, w.roster.every, w.roster.lapse = n, 500*time.Millisecond, 15*time.Second
}

// Pushed returns the queues that a worker pushes.
func (w *Worker) Pushed() map[QueueName]bool {
	pushed := map[QueueName]bool{}
	for q := range w.pushes.each() {
		pushed[q.queue] = true
	}
	return pushed
}

// KnownPaused returns the queues of the default tenant that the process knows to be paused.
func (s *Service) KnownPaused() map[QueueName]bool {
	all, _ := s.pauses.all()
	paused := map[QueueName]bool{}
	for q := range all {
		paused[q.queue] = true
	}
	return paused
}
