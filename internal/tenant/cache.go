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
	askLimit = 2 * time.Second // bounds one query to the database
	// Keys that do not exist are remembered for unknownFor, and at most maxUnknown of them, because clients choose the keys.
	unknownFor = time.Second
	maxUnknown = 10_000
	maxAsked   = 10_000 // keys in one query

	cacheShards = 64
)

// cache holds what was looked up for one snapshot. Only one query to the database runs at a time, for everything that
// calls have asked for meanwhile: whatever keys clients invent, they use one connection, and no key is looked up twice.
type cache[K comparable, V any] struct {
	read   func(ctx context.Context, keys []K) (map[K]*V, error)
	now    func() time.Time
	seed   maphash.Seed
	shards [cacheShards]shard[K, V]

	mu      sync.Mutex
	asked   *question[K, V] // running
	next    *question[K, V] // asked after the running one
	unknown map[K]struct{}  // keys that were looked up after since and do not exist
	since   time.Time
}

// shard is a part of the values that were found. A sync.Map would allocate each key on the heap for each lookup.
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

// question is a query for the keys of many calls. It continues if the calls end.
type question[K comparable, V any] struct {
	keys map[K]struct{}
	done chan struct{}
	// Set before done is closed:
	found map[K]*V
	err   error
}

func newCache[K comparable, V any](now func() time.Time, read func(context.Context, []K) (map[K]*V, error)) *cache[K, V] {
	return &cache[K, V]{read: read, now: now, seed: maphash.MakeSeed()}
}

// known returns the value that was found for a key, nil if none was found so far.
func (c *cache[K, V]) known(key K) *V { return c.shard(key).load(key) }

// get returns the value of a key, looking it up if necessary, and nil if there is none. Errors: Unavailable, and those of
// ctx.
func (c *cache[K, V]) get(ctx context.Context, key K) (*V, error) {
	if v := c.known(key); v != nil {
		return v, nil
	}
	c.mu.Lock()
	v, ok := c.cached(key)
	if ok {
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

// cached returns the value of a key, or nil if it is known not to exist. ok reports whether either is known.
func (c *cache[K, V]) cached(key K) (v *V, ok bool) {
	if v = c.known(key); v != nil {
		return v, true
	}
	_, unknown := c.unknown[key]
	return nil, unknown && c.now().Sub(c.since) < unknownFor
}

// join returns the question that includes the key, nil if it would be too large.
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

// ask runs queries until no call is waiting for one.
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

// turn stores the answer to a question, and returns the next question.
func (c *cache[K, V]) turn(q *question[K, V], began time.Time) *question[K, V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q != nil {
		if q.err == nil {
			c.store(q, began)
		}
		close(q.done)
	}
	c.asked, c.next = c.next, nil
	return c.asked
}

func (c *cache[K, V]) store(q *question[K, V], began time.Time) {
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
