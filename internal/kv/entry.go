package kv

import (
	"hash/maphash"
	"math"
	"strings"
	"sync"
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
	key  string
	seen int64 // when it was looked up last; the shard's mutex guards it

	mu     sync.Mutex
	shared meter // what Redis said last: the level may be higher by now, never lower
	own    meter // what this process was allowed and took ahead
	idleAt int64 // when own has drained

	ahead  int64         // tokens taken ahead that are left
	expiry int64         // when they are given up
	flight chan struct{} // while some are on their way; closed when they are here

	departed int64   // when some were sent for last
	asked    float64 // tokens that were asked for since
	resume   int64   // until when an empty bucket is left alone
}

// wait is how long n tokens cannot be had, for all that is known; 0 if Redis must be asked.
func (e *entry) wait(now int64, level float64, n int64, r Rate) time.Duration {
	return max(r.wait(level, n), time.Duration(e.resume-now))
}

// peek says whether a token of own can be had.
func (e *entry) peek(now int64, r Rate) Decision {
	e.mu.Lock()
	defer e.mu.Unlock()
	level := e.own.read(now, r)
	wait := r.wait(level, 1)
	return Decision{Allowed: wait == 0, Limit: r, Key: e.key, Remaining: r.remaining(level), RetryAfter: wait, Reset: r.reset(level)}
}

// count adds n tokens to own.
func (e *entry) count(now, n int64, r Rate) {
	e.own.add(now, n, r)
	e.idleAt = e.own.at + int64(r.reset(e.own.level))
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

// entry gives that of a key, a new one if there is none.
func (t *table) entry(key string, now int64) *entry {
	s := &t.shards[maphash.String(t.seed, key)%shards]
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
		e = &entry{key: strings.Clone(key)}
		s.entries[e.key] = e
	}
	e.seen = now
	return e
}

// sweep forgets the entries whose own bucket is full again.
func (s *shard) sweep(now int64) {
	s.sweepAt = now + int64(sweepEvery)
	if s.entries == nil {
		s.entries = map[string]*entry{}
	}
	for key, e := range s.entries {
		// One that was seen a moment ago may be in use.
		if e.seen+int64(sweepEvery) <= now && e.idle() <= now {
			delete(s.entries, key)
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
	delete(s.entries, victim)
}

func (e *entry) idle() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.idleAt
}
