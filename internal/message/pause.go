package message

import (
	"context"
	"maps"
	"sync"
	"time"

	"plinth/internal/pg"
)

// pausePoll is how often the queues are read without a notification.
const pausePoll = 5 * time.Second

// queueSet is a set of queues of all tenants, such as those that are paused, as of the last read.
type queueSet struct {
	load     func(ctx context.Context, system *pg.System) ([]tenantQueue, error)
	mu       sync.Mutex
	queues   map[tenantQueue]bool
	until    context.Context // ends when queues changes
	change   context.CancelFunc
	reads    int // that have begun
	lastRead int // the number of the latest read that has ended
}

func newQueueSet(load func(ctx context.Context, system *pg.System) ([]tenantQueue, error)) *queueSet {
	p := &queueSet{load: load}
	p.until, p.change = context.WithCancel(context.Background())
	return p
}

// of reports whether a queue is in the set. The answer is valid until the returned context ends.
func (p *queueSet) of(queue tenantQueue) (in bool, until context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queues[queue], p.until
}

// read loads the set from the table. Of concurrent reads, the one that began last wins.
func (p *queueSet) read(ctx context.Context, system *pg.System) error {
	p.mu.Lock()
	p.reads++
	turn := p.reads
	p.mu.Unlock()
	names, err := p.load(ctx, system)
	if err != nil {
		return err
	}
	queues := make(map[tenantQueue]bool, len(names))
	for _, name := range names {
		queues[name] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if turn < p.lastRead {
		return nil
	}
	p.lastRead = turn
	if !maps.Equal(p.queues, queues) {
		p.queues = queues
		p.change()
		p.until, p.change = context.WithCancel(context.Background())
	}
	return nil
}

// watchQueues reads which queues are paused, and which queues of the handlers exist, after each notification that this
// may have changed, and every pausePoll.
func (s *Service) watchQueues(ctx context.Context) {
	for {
		timer := time.NewTimer(pausePoll)
		select {
		case <-s.heardPolicies:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Stop()
		// Others log that the database is away, and the next read follows soon.
		_ = s.pauses.read(ctx, s.system)
		if present := s.present.Load(); present != nil {
			_ = present.read(ctx, s.system)
		}
	}
}
