package tenant

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"plinth/internal/errs"
)

const (
	askLimit = 2 * time.Second // of one question to the database
	// What is not there is remembered for a moment, and so much of it: clients choose what they ask for.
	unknownFor = time.Second
	maxUnknown = 10_000
	maxAsked   = 10_000 // by one question

	cacheShards = 64
)

// cache is what was looked up for one snapshot. At any time one question to the database is on its way, for everything that
// calls asked for meanwhile: whatever they make up, they take one connection, and nothing is asked for twice.
type cache[K comparable, V any] struct {
	read   func(ctx context.Context, keys []K) (map[K]*V, error)
	now    func() time.Time
	seed   maphash.Seed
	shards [cacheShards]shard[K, V]

	mu      sync.Mutex
	asked   *question[K, V] // on its way
	next    *question[K, V] // asked after that one
	unknown map[K]struct{}  // what was not there since
	since   time.Time
}

// shard is a part of what was found. A sync.Map would put each key on the heap for each look.
type shard[K comparable, V any] struct {
	mu     sync.RWMutex
	values map[K]*V
}

func (c *cache[K, V]) shard(key K) *shard[K, V] {
	return &c.shards[maphash.Comparable(c.seed, key)%cacheShards]
}

func (s *shard[K, V]) load(key K) *V {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.values[key]
}

func (s *shard[K, V]) store(key K, v *V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[K]*V{}
	}
	s.values[key] = v
}

// question is for many calls. It goes on when they end.
type question[K comparable, V any] struct {
	keys map[K]struct{}
	done chan struct{}
	// Once done:
	found map[K]*V
	err   error
}

func newCache[K comparable, V any](now func() time.Time, read func(context.Context, []K) (map[K]*V, error)) *cache[K, V] {
	return &cache[K, V]{read: read, now: now, seed: maphash.MakeSeed()}
}

// known gives what was found for a key, nil where that is nothing so far.
func (c *cache[K, V]) known(key K) *V { return c.shard(key).load(key) }

// get gives what is there for a key, nil for nothing. Errors: Unavailable, and those of ctx.
func (c *cache[K, V]) get(ctx context.Context, key K) (*V, error) {
	if v := c.known(key); v != nil {
		return v, nil
	}
	c.mu.Lock()
	v, told := c.told(key)
	if told {
		c.mu.Unlock()
		return v, nil
	}
	q := c.join(key)
	c.mu.Unlock()
	if q == nil {
		return nil, errs.New(errs.Unavailable, "too many unknown keys are asked for at the same time; try again")
	}
	select {
	case <-q.done:
		return q.found[key], q.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// told gives what is known of a key by now.
func (c *cache[K, V]) told(key K) (v *V, told bool) {
	if v = c.known(key); v != nil {
		return v, true
	}
	_, unknown := c.unknown[key]
	return nil, unknown && c.now().Sub(c.since) < unknownFor
}

// join gives the question that has the key, nil where it would be too large.
func (c *cache[K, V]) join(key K) *question[K, V] {
	if c.asked != nil {
		if _, ok := c.asked.keys[key]; ok {
			return c.asked
		}
	}
	if c.next == nil {
		c.next = &question[K, V]{keys: map[K]struct{}{}, done: make(chan struct{})}
		if c.asked == nil {
			go c.ask()
		}
	}
	if _, ok := c.next.keys[key]; !ok && len(c.next.keys) >= maxAsked {
		return nil
	}
	c.next.keys[key] = struct{}{}
	return c.next
}

// ask asks until nobody waits.
func (c *cache[K, V]) ask() {
	for q := c.turn(nil, time.Time{}); q != nil; {
		began := c.now()
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		q.found, q.err = c.read(ctx, slices.Collect(maps.Keys(q.keys)))
		cancel()
		if q.err != nil {
			q.err = unavailable(q.err)
		}
		q = c.turn(q, began)
	}
}

// turn keeps the answer to a question, and gives the next one.
func (c *cache[K, V]) turn(q *question[K, V], began time.Time) *question[K, V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q != nil {
		if q.err == nil {
			c.keep(q, began)
		}
		close(q.done)
	}
	c.asked, c.next = c.next, nil
	return c.asked
}

func (c *cache[K, V]) keep(q *question[K, V], began time.Time) {
	for key := range q.keys {
		if v := q.found[key]; v != nil {
			c.shard(key).store(key, v)
			continue
		}
		if began.Sub(c.since) >= unknownFor || len(c.unknown) >= maxUnknown {
			c.unknown, c.since = map[K]struct{}{}, began
		}
		c.unknown[key] = struct{}{}
	}
}

func unavailable(cause error) error {
	return errs.Wrap(cause, errs.Unavailable, "who calls cannot be told now: the database is not available")
}
