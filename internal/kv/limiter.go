package kv

import (
	"context"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	patience   = 50 * time.Millisecond
	probeEvery = time.Second // while Redis is away
)

// Limit is one rate and whom it is for.
type Limit struct {
	// Kind and Name are the bucket's, such as tenant and acme; in Redis it is plinth:rate:tenant:acme. Whoever makes a name of
	// what a client sends bounds its length.
	Kind, Name string
	Rate       Rate
	Hint       *Hint // of the name; nil for none
}

// key is the bucket's.
func (l *Limit) key() string { return l.Kind + ":" + l.Name }

// Decision is what became of a Take.
type Decision struct {
	Allowed bool
	// Limit is the rate that decided: the one that refuses, for longest if there are more, or that has the least share of its
	// Count left. Zero is no limit. Kind is the limit's.
	Limit Rate
	Kind  string
	// Remaining is how many tokens it has left, as far as this process knows.
	Remaining int64
	// RetryAfter is how long to wait before as many may be taken, where they are refused. 0 is that no wait helps, since
	// they are more than Limit.Count.
	RetryAfter time.Duration
	// Reset is how long it takes until it has all its tokens again, if nobody takes any.
	Reset time.Duration
}

// Limiter keeps to rates in all processes that share a Redis: Rate.Count tokens at once, and then one each Per/Count.
//
// A rate of which half is left or more is not asked for: each process takes up to a hundredth of Rate.Count by itself, and
// tells Redis afterwards, of many keys at once: 10 ms later, or within 10 s while it took less than half of that. The other half
// is asked for token by token, and so is a rate whose Count is below 100, which makes these exact: in no time W are more allowed
// than Count + W × Count/Per, by all processes together. For the others it is a hundredth of Count more, at the most, for each
// process; what is too much comes off what is allowed next.
//
// What Redis says is remembered: a call that cannot be allowed yet, whoever else takes or not, is refused without asking.
//
// When Redis is away (an error, or no answer in 50 ms), each process allows the same rates by itself, less what Redis allowed
// it before. Only the calls that find it out wait; it is tried again each second in the background. When it is back, it goes
// on from what it holds: what was allowed meanwhile is not counted. A Redis that comes back empty has every bucket full, but
// those that a process remembers to be used up are so until they would have been refilled.
//
// At most 100,000 keys are remembered, the busiest of them. Without Redis, the bucket of one that is forgotten is full.
type Limiter struct {
	client *redis.Client
	script *redis.Script
	log    *zap.Logger
	now    func() time.Time

	start    time.Time     // of the clock
	patience time.Duration // how long an answer of Redis may take
	away     atomic.Bool
	probe    atomic.Int64 // when to try again while it is away
	table    table

	tellers [paces]teller
}

// NewLimiter makes a limiter on a Redis. Nothing is asked of it before the first Take.
func NewLimiter(client *redis.Client, log *zap.Logger, now func() time.Time) *Limiter {
	return &Limiter{
		client: client, script: redis.NewScript(gcra), log: log, now: now,
		start: now(), patience: patience, table: table{seed: maphash.MakeSeed()},
		tellers: [paces]teller{soon: {after: tellSoon}, late: {after: tellLate}},
	}
}

// Take takes n of every limit, or of none: a call that one limit refuses does not use up the others. n below 1 counts as 1,
// and n above a limit's Count is always refused. The keys of one call differ. Limits whose rate is zero are left out.
// The end of ctx does not cut it short, since others may wait for the same answer; it takes 100 ms at most.
func (l *Limiter) Take(ctx context.Context, n int64, limits ...Limit) Decision {
	n = max(n, 1)
	now := l.clock()
	var few [4]claim
	claims := l.claims(few[:0], now, limits)
	if !l.reachable(now) {
		return takeOwn(now, n, claims)
	}
	ask, d := reserve(now, n, claims)
	if ask {
		d = l.fetch(ctx, now, n, claims)
	}
	for i := range claims {
		if claims[i].state == deferred {
			l.tellLater(claims[i].entry, claims[i].pace)
		}
	}
	return d
}

// clock is the time since the start, in nanoseconds.
func (l *Limiter) clock() int64 { return int64(l.now().Sub(l.start)) }

func (l *Limiter) claims(claims []claim, now int64, limits []Limit) []claim {
	for _, limit := range limits {
		if limit.Rate.IsLimit() {
			claims = append(claims, claim{kind: limit.Kind, rate: limit.Rate, entry: l.table.find(&limit, now)})
		}
	}
	return claims
}

// fetch takes the tokens that are missing from Redis.
func (l *Limiter) fetch(ctx context.Context, now, n int64, claims []claim) Decision {
	buckets := make([]bucket, 0, len(claims))
	for i := range claims {
		if c := &claims[i]; c.state == missing {
			buckets = append(buckets, c.depart(now))
		}
	}
	taken, err := l.ask(ctx, n, buckets)
	if err != nil {
		l.lose(err)
	}
	after, next := l.clock(), 0
	for i := range claims {
		if c := &claims[i]; c.state == missing {
			c.arrive(now, buckets[next], err == nil)
			c.settle(after, n, taken, buckets[next])
			next++
		}
	}
	if !taken {
		release(after, n, claims)
	}
	if err != nil {
		return takeOwn(after, n, claims)
	}
	return tightest(claims)
}

// reachable says whether Redis answers, as far as is known. While it does not, it is tried every now and then.
func (l *Limiter) reachable(now int64) bool {
	if !l.away.Load() {
		return true
	}
	if at := l.probe.Load(); now >= at && l.probe.CompareAndSwap(at, now+int64(probeEvery)) {
		go l.tryAgain()
	}
	return false
}

func (l *Limiter) tryAgain() {
	// It writes, since a Redis that only reads is of no use. Nothing is taken.
	_, err := l.ask(context.Background(), 0, []bucket{{key: probeKey, rate: Rate{1, time.Millisecond}}})
	if err == nil && l.away.CompareAndSwap(true, false) {
		l.log.Info("Redis is back: rates hold for all processes together")
	}
}

func (l *Limiter) lose(err error) {
	l.probe.Store(l.clock() + int64(probeEvery))
	if l.away.CompareAndSwap(false, true) {
		l.log.Warn("Redis is away: rates hold for each process by itself", zap.Error(err))
	}
}
