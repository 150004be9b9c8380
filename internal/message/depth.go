package message

import (
	"context"
	"errors"
	"time"

	"plinth/internal/broker"
	"plinth/internal/pg"
)

const (
	depthsEvery = 30 * time.Second
	depthsBatch = 200 // queues in one statement
)

// countingDepths is the work of one process that counts what is in queues, for the quota of it. The broker in PostgreSQL needs none.
func (s *Service) countingDepths() pg.Periodic {
	return pg.Periodic{Name: "queue depths", Interval: depthsEvery, Work: s.countDepths, Log: s.log}
}

// countDepths asks the broker how many messages wait in each queue, one after the other. What it does not tell stays as it was told before,
// and is asked for the next time.
func (s *Service) countDepths(ctx context.Context) error {
	for after := (tenantQueue{}); ; {
		queues, err := selectQueuesBehind(ctx, s.system, after, depthsBatch)
		if err != nil || len(queues) == 0 {
			return err
		}
		depths := make(map[tenantQueue]int64, len(queues))
		for _, q := range queues {
			n, err := s.broker.Ready(ctx, q.queue.onBroker(q.tenant))
			switch {
			case err == nil || errors.Is(err, broker.ErrNoQueue):
				depths[q] = n
			case s.broker.Ping(ctx) != nil:
				return err
			}
		}
		if err := upsertDepths(ctx, s.system, depths); err != nil {
			return err
		}
		after = queues[len(queues)-1]
	}
}
