package kv

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shards      = 64
	shardLimit  = 100_000 / shards // entries
	sweepEvery  = 10 * time.Second
	evictSample = 8
)

// entry is what this process knows of one key. Times are those of the Limiter's clock.
type entry struct {
	redis  string       // the key there
	seen   atomic.Int64 // when it was looked up last
	gone   atomic.Bool  // from the table
	listed atomic.Bool  // in the teller

	mu     sync.Mutex
	rate   Rate  // at which it was taken last
	shared meter // what Redis said last: the level may be higher by now, never lower
	own    meter // what this process was allowed
	idleAt int64 // when own has drained

	untold  int64 // tokens taken that Redis is to be told of; below 0 where some are given back that it was told of
	telling int64 // those that it is being told of
}

func (e *entry) key() string { return e.redis[len(keyPrefix):] }

// peek says whether a token of own can be had.
func (e *entry) peek(now int64, r Rate) Decision {
	e.mu.Lock()
	defer e.mu.Unlock()
	level := e.own.read(now, r)
	wait := r.wait(level, 1)
	return Decision{Allowed: wait == 0, Limit: r, Key: e.key(), Remaining: r.remaining(level), RetryAfter: wait, Reset: r.reset(level)}
}

// count adds n tokens to own.
func (e *entry) count(now, n int64, r Rate) {
	e.own.add(now, n, r)
	e.idleAt = e.own.at + int64(r.reset(e.own.level))
}

// depart gives the bucket to ask for, and what to tell of on this occasion.
func (e *entry) depart() bucket {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := bucket{key: e.redis, rate: e.rate, told: e.untold}
	e.telling += b.told
	e.untold = 0
	return b
}

// arrive keeps what Redis answered. It was asked at sent, and that is how old the answer is taken to be. Without an answer
// nobody knows whether it was told; it counts as told, so that nothing is held against callers twice.
func (e *entry) arrive(sent int64, b bucket, answered bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.telling -= b.told
	if answered {
		e.shared = meter{level: b.level, at: sent}
	}
}

// Hint remembers where a Limiter has a key, so that it need not be looked up again. The zero Hint is ready to use; it is for
// one key of one Limiter.
type Hint struct{ entry atomic.Pointer[entry] }

// find gives the entry of a key.
func (h *Hint) find(t *table, key string, now int64) *entry {
	if h == nil {
		return t.entry(key, now)
	}
	if e := h.entry.Load(); e != nil && !e.gone.Load() {
		e.seen.Store(now)
		return e
	}
	e := t.entry(key, now)
	h.entry.Store(e)
	return e
}

// table holds the entries by their keys, which clients choose: there are at most shards × shardLimit.
type table struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu      sync.Mutex
	entries map[string]*entry
	sweepAt int64
}

// known gives the entry of a key; nil if there is none.
func (t *table) known(key string) *entry {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[key]
}

func (t *table) shard(key string) *shard { return &t.shards[maphash.String(t.seed, key)%shards] }

// entry gives that of a key, a new one if there is none.
func (t *table) entry(key string, now int64) *entry {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now >= s.sweepAt {
		s.sweep(now)
	}
	e := s.entries[key]
	if e == nil {
		if len(s.entries) >= shardLimit {
			s.evict()
		}
		e = &entry{redis: keyPrefix + key}
		s.entries[e.key()] = e
	}
	e.seen.Store(now)
	return e
}

// remove forgets an entry.
func (s *shard) remove(key string, e *entry) {
	delete(s.entries, key)
	e.gone.Store(true)
}

// sweep forgets the entries whose own bucket is full again.
func (s *shard) sweep(now int64) {
	s.sweepAt = now + int64(sweepEvery)
	if s.entries == nil {
		s.entries = map[string]*entry{}
	}
	for key, e := range s.entries {
		// One that was seen a moment ago may be in use.
		if e.seen.Load()+int64(sweepEvery) <= now && e.idle() <= now {
			s.remove(key, e)
		}
	}
}

// evict forgets one of a few entries, whichever would be idle first.
func (s *shard) evict() {
	victim, first, n := "", int64(math.MaxInt64), 0
	for key, e := range s.entries {
		if at := e.idle(); at < first {
			victim, first = key, at
		}
		if n++; n == evictSample {
			break
		}
	}
	s.remove(victim, s.entries[victim])
}

func (e *entry) idle() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.idleAt
}
