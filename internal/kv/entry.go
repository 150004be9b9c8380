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
	sweepEvery  = time.Minute
	evictSample = 8
)

// entry is what this process knows of one key. Times are those of the Limiter's clock.
type entry struct {
	redis  string             // the key there
	seen   atomic.Int64       // when it was looked up last
	gone   atomic.Bool        // from the table
	listed [paces]atomic.Bool // by the tellers

	mu     sync.Mutex
	rate   Rate  // at which it was taken last
	shared meter // what Redis said last, and what is untold: the level may be higher by now, never lower
	own    meter // what this process was allowed
	idleAt int64 // when own has drained

	untold  int64 // tokens taken that Redis is to be told of; below 0 where some are given back that it was told of
	takenAt int64 // the last of them
	telling int64 // those that it is being told of
}

func (e *entry) key() string { return e.redis[len(keyPrefix):] }

// count adds n tokens to own.
func (e *entry) count(now, n int64, r Rate) {
	e.own.add(now, n, r)
	e.idleAt = e.own.at + int64(r.reset(e.own.level))
}

// depart gives the bucket to ask for, and what to tell of on this occasion.
func (e *entry) depart(now int64) bucket {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := bucket{key: e.redis, rate: e.rate, told: e.untold, ago: time.Duration(max(0, now-e.takenAt))}
	e.telling += b.told
	e.untold = 0
	return b
}

// arrive keeps what Redis answered, unless more is known already: answers may come in another order than they were given.
// It was asked at sent, and that is how old the answer is taken to be. Without an answer nobody knows whether it was told; it
// counts as told, so that nothing is held against callers twice.
func (e *entry) arrive(sent int64, b bucket, answered bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.telling -= b.told
	if !answered {
		return
	}
	answer := meter{level: b.level, at: sent}
	answer.add(sent, e.untold+e.telling, e.rate)
	if at := max(sent, e.shared.at); answer.read(at, e.rate) > e.shared.read(at, e.rate) {
		e.shared = answer
	}
}

// Hint remembers where a Limiter has a key, so that it need not be looked up again. The zero Hint is ready to use; it is for
// one key of one Limiter.
type Hint struct{ entry atomic.Pointer[entry] }

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

// find gives the entry of a limit.
func (t *table) find(l *Limit, now int64) *entry {
	if l.Hint == nil {
		return t.entry(l.key(), now)
	}
	if e := l.Hint.entry.Load(); e != nil && !e.gone.Load() {
		e.seen.Store(now)
		return e
	}
	e := t.entry(l.key(), now)
	l.Hint.entry.Store(e)
	return e
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
