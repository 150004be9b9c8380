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

// queueSet is a set of queues of all tenants, such as those that are paused, as it was read last.
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

// of says whether a queue is in the set. The answer holds until the context ends.
func (p *queueSet) of(queue tenantQueue) (in bool, until context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queues[queue], p.until
}

// read takes over what the table says. Of reads at the same time the one that began last counts.
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

// watchQueues reads which queues are paused, and which of the handlers' are there, whenever a notification says that this may
// have changed, and slowly besides.
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
		// A database that is away is in the log of others, and the next time comes.
		_ = s.pauses.read(ctx, s.system)
		if present := s.present.Load(); present != nil {
			_ = present.read(ctx, s.system)
		}
	}
}
