package message

import (
	"context"
	"sync"
	"time"

	"plinth/internal/auth"
)

const (
	// statsMany is how many messages of a queue take long to count: tens of milliseconds on a slow machine.
	statsMany = 50_000
	// statsShare is how many times as long as counting took the figures of such a queue are relied on, up to statsLimit, so that asking
	// costs the database a bounded part of its time, however many ask.
	statsShare = 20
	statsLimit = 10 * time.Second
)

// statsCache has the figures of queues with very many messages, as they were counted last.
type statsCache struct {
	mu    sync.Mutex
	known map[tenantQueue]knownStats
}

type knownStats struct {
	Stats
	until time.Time
}

// get returns the figures of a queue that are still relied on. If they are not, others rely on them until they are counted.
func (c *statsCache) get(queue tenantQueue, now time.Time) (Stats, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, is := c.known[queue]
	if !is || now.Before(k.until) {
		return k.Stats, is
	}
	k.until = now.Add(statsLimit)
	c.known[queue] = k
	return Stats{}, false
}

// put stores the figures of a queue if it has very many messages, and forgets what nobody has asked for.
func (c *statsCache) put(queue tenantQueue, stats Stats, began, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, queue)
	if stats.Depth+stats.Waiting+stats.Pulled+stats.DeadLetters < statsMany {
		return
	}
	if c.known == nil {
		c.known = map[tenantQueue]knownStats{}
	}
	for other, k := range c.known {
		if now.Sub(k.until) > statsLimit {
			delete(c.known, other)
		}
	}
	c.known[queue] = knownStats{stats, now.Add(min(statsLimit, statsShare*now.Sub(began)))}
}

// forget has the figures of a queue counted the next time.
func (c *statsCache) forget(queue tenantQueue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, queue)
}

// readStats returns the figures of a queue.
func (s *Service) readStats(ctx context.Context, name QueueName) (Stats, error) {
	queue, began := tenantQueue{auth.TenantOf(ctx), name}, time.Now()
	if stats, is := s.stats.get(queue, began); is {
		return stats, nil
	}
	stats, err := selectStats(ctx, s.db, name)
	if err == nil {
		err = onDeclared(ctx, name, s.declare, func() (err error) {
			stats.Depth, err = s.broker.Ready(ctx, name.onBroker(queue.tenant))
			return err
		})
	}
	if err != nil {
		s.stats.forget(queue)
		return stats, err
	}
	s.stats.put(queue, stats, began, time.Now())
	return stats, nil
}
