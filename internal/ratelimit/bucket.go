package ratelimit

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"plinth/internal/kv"
)

const (
	shards      = 64
	shardLimit  = 100_000 / shards // buckets
	sweepEvery  = time.Minute
	evictSample = 8
)

// bucket is what this process knows of one key. Times are those of the Limiter's clock.
type bucket struct {
	tenant string
	key    string             // in Redis
	seen   atomic.Int64       // when it was last looked up
	gone   atomic.Bool        // from the table
	listed [paces]atomic.Bool // by the reporters

	mu     sync.Mutex
	rate   rate  // at which it was last taken
	shared meter // what Redis replied last, and what is unreported: the level may be higher by now, never lower
	local  meter // what this process was allowed
	idleAt int64 // when local has drained

	unreported int64 // tokens taken that Redis has not heard of; negative if more were given back since
	takenAt    int64 // when the last of them was
	reporting  int64 // tokens in a query that is under way
}

// slot identifies the slot of a Cluster that the key is in.
func (b *bucket) slot() string { return b.tenant }

// addLocal adds n tokens to what this process was allowed.
func (b *bucket) addLocal(now, n int64, r rate) {
	b.local.add(now, n, r)
	b.idleAt = b.local.at + int64(r.reset(b.local.level))
}

// newQuery returns a query about the bucket, which reports what is unreported.
func (b *bucket) newQuery(now int64) query {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := query{bucket: b, rate: b.rate, reported: b.unreported, ago: time.Duration(max(0, now-b.takenAt))}
	b.reporting += q.reported
	b.unreported = 0
	return q
}

// apply records the reply to a query that was asked at sent, and that is how old the reply is taken to be. It ignores a reply
// if more is known already, since replies may arrive in another order. Without a reply nobody knows whether the tokens were
// reported; they count as reported, so that nothing is held against callers twice.
func (b *bucket) apply(sent int64, q query, answered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reporting -= q.reported
	if !answered {
		return
	}
	reply := meter{level: q.level, at: sent}
	reply.add(sent, b.unreported+b.reporting, b.rate)
	if at := max(sent, b.shared.at); reply.read(at, b.rate) > b.shared.read(at, b.rate) {
		b.shared = reply
	}
}

func (b *bucket) idle() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.idleAt
}

// table holds the buckets by their keys, which clients choose: there are at most shards × shardLimit.
type table struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu      sync.Mutex
	buckets map[string]*bucket
	sweepAt int64
}

// find returns the bucket of a limit, a new one if there is none.
func (t *table) find(l *Limit, now int64) *bucket {
	if l.Slot == nil {
		return t.lookUp(l, now)
	}
	if b, ok := l.Slot.Load().(*bucket); ok && !b.gone.Load() {
		b.seen.Store(now)
		return b
	}
	b := t.lookUp(l, now)
	l.Slot.Store(b)
	return b
}

func (t *table) shard(key string) *shard { return &t.shards[maphash.String(t.seed, key)%shards] }

func (t *table) lookUp(l *Limit, now int64) *bucket {
	key := l.key()
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now >= s.sweepAt {
		s.sweep(now)
	}
	b := s.buckets[key]
	if b == nil {
		if len(s.buckets) >= shardLimit {
			s.evict()
		}
		b = &bucket{tenant: l.Tenant, key: key}
		s.buckets[key] = b
	}
	b.seen.Store(now)
	return b
}

// key returns the name of the limit's bucket in Redis.
func (l *Limit) key() string {
	if l.Name == "" {
		return kv.Key(l.Tenant, "rate", l.Kind)
	}
	return kv.Key(l.Tenant, "rate", l.Kind, l.Name)
}

// remove forgets a bucket.
func (s *shard) remove(b *bucket) {
	delete(s.buckets, b.key)
	b.gone.Store(true)
}

// sweep forgets the buckets that are full again in this process.
func (s *shard) sweep(now int64) {
	s.sweepAt = now + int64(sweepEvery)
	if s.buckets == nil {
		s.buckets = map[string]*bucket{}
	}
	for _, b := range s.buckets {
		// One that was seen a moment ago may be in use.
		if b.seen.Load()+int64(sweepEvery) <= now && b.idle() <= now {
			s.remove(b)
		}
	}
}

// evict forgets one of a few buckets, whichever would be idle first.
func (s *shard) evict() {
	var victim *bucket
	first, n := int64(math.MaxInt64), 0
	for _, b := range s.buckets {
		if at := b.idle(); at < first {
			victim, first = b, at
		}
		if n++; n == evictSample {
			break
		}
	}
	s.remove(victim)
}
