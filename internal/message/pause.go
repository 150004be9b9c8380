package message

import (
	"context"
	"maps"
	"sync"
	"time"

	"plinth/internal/pg"
)

// pausePoll is how often the queues are read without a notification.
const pausePoll = 15 * time.Second

// queueSet is a set of queues of all tenants, such as those that are paused, as of the last read.
type queueSet = queueMap[bool]

// queueMap has what was read last of queues of all tenants.
type queueMap[V comparable] struct {
	load     func(ctx context.Context, system *pg.System) (map[tenantQueue]V, error)
	mu       sync.Mutex
	queues   map[tenantQueue]V // never changed, but replaced
	until    context.Context   // ends when queues changes
	change   context.CancelFunc
	reads    int                       // that have begun
	lastRead int                       // the number of the latest read of all queues that has ended
	one      map[tenantQueue]single[V] // read later than all
}

// single is what there is of one queue, and the number of the read that told.
type single[V comparable] struct {
	read  int
	value V
}

func newQueueSet(load func(ctx context.Context, system *pg.System) ([]tenantQueue, error)) *queueSet {
	return newQueueMap(func(ctx context.Context, system *pg.System) (map[tenantQueue]bool, error) {
		names, err := load(ctx, system)
		queues := make(map[tenantQueue]bool, len(names))
		for _, name := range names {
			queues[name] = true
		}
		return queues, err
	})
}

func newQueueMap[V comparable](load func(context.Context, *pg.System) (map[tenantQueue]V, error)) *queueMap[V] {
	p := &queueMap[V]{load: load, one: map[tenantQueue]single[V]{}}
	p.until, p.change = context.WithCancel(context.Background())
	return p
}

// of returns what there is of a queue, such as whether it is in the set. The answer is valid until the returned context ends.
func (p *queueMap[V]) of(queue tenantQueue) (v V, until context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queues[queue], p.until
}

// all returns what there is of all queues, which must not be changed. The answer is valid until the returned context ends.
func (p *queueMap[V]) all() (queues map[tenantQueue]V, until context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queues, p.until
}

// read loads the table. Of concurrent reads, the one that began last wins.
func (p *queueMap[V]) read(ctx context.Context, system *pg.System) error {
	turn := p.turn()
	queues, err := p.load(ctx, system)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if turn < p.lastRead {
		return nil
	}
	p.lastRead = turn
	for queue, s := range p.one {
		if s.read < turn {
			delete(p.one, queue)
		} else {
			put(queues, queue, s.value)
		}
	}
	p.set(queues)
	return nil
}

// readOne reads what there is of one queue, the zero value for nothing, by a function that asks for it alone.
func (p *queueMap[V]) readOne(queue tenantQueue, load func() (V, error)) error {
	turn := p.turn()
	value, err := load()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if turn < max(p.lastRead, p.one[queue].read) {
		return nil
	}
	p.one[queue] = single[V]{turn, value}
	if p.queues[queue] == value {
		return nil
	}
	queues := make(map[tenantQueue]V, len(p.queues)+1)
	maps.Copy(queues, p.queues)
	put(queues, queue, value)
	p.set(queues)
	return nil
}

func (p *queueMap[V]) turn() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads++
	return p.reads
}

// set replaces what was read, and ends the answers if that has changed. The caller must hold p.mu.
func (p *queueMap[V]) set(queues map[tenantQueue]V) {
	if !maps.Equal(p.queues, queues) {
		p.queues = queues
		p.change()
		p.until, p.change = context.WithCancel(context.Background())
	}
}

// put sets what there is of a queue, the zero value being nothing.
func put[V comparable](queues map[tenantQueue]V, queue tenantQueue, value V) {
	var nothing V
	if value == nothing {
		delete(queues, queue)
	} else {
		queues[queue] = value
	}
}

// readPaused reads whether a queue is paused.
func (s *Service) readPaused(ctx context.Context, queue tenantQueue) error {
	return s.pauses.readOne(queue, func() (bool, error) { return selectPausedOne(ctx, s.system, queue) })
}

// watchQueues reads which queues are paused, which queues of the handlers exist and which are pushed, after each notification that this
// may have changed, and every pausePoll. Then it also forgets what was declared of others.
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
		if pushed := s.pushed.Load(); pushed != nil {
			_ = pushed.read(ctx, s.system)
		}
		s.topology.prune(time.Now(), s.rates)
	}
}
