package ratelimit

import (
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/auth"
)

// replyLimit is how long a reply of Redis may take.
const replyLimit = 50 * time.Millisecond

// Limit is one rate and whom it is for.
type Limit struct {
	// Tenant, Kind and Name identify the bucket. Kind is a word for people, such as tenant or key; Name may be empty. A
	// caller that builds a name from what a client sends must bound its length.
	Tenant, Kind, Name string
	Rate               auth.Rate
	// Slot is where the limiter keeps the bucket, so that it need not look it up again; nil is none. A slot is for one bucket
	// of one Limiter.
	Slot *atomic.Value
}

// Decision is the result of a Take.
type Decision struct {
	Allowed bool
	// Limit is the rate that decided: the one that refuses, for longest if there are more, or the one with the least share of
	// its Count left. Zero is no limit. Kind is that of the Limit.
	Limit auth.Rate
	Kind  string
	// Remaining is how many tokens are left of Limit, as far as this process knows.
	Remaining int64
	// RetryAfter is how long to wait before as many tokens may be taken, if they were refused. 0 means that no wait helps, since
	// they are more than Limit.Count.
	RetryAfter time.Duration
	// Reset is how long it takes until all tokens of Limit are back, if nobody takes any.
	Reset time.Duration
}

// Limiter limits rates; see the package comment. It is safe for concurrent use.
type Limiter struct {
	client    redis.UniversalClient
	clustered bool // the client's keys are spread over nodes
	script    *redis.Script
	log       *zap.Logger
	now       func() time.Time

	start      time.Time // of the clock
	replyLimit time.Duration
	outage     atomic.Pointer[outage] // nil while Redis answers
	table      table
	reporters  [paces]reporter
}

// New returns a Limiter on a Redis. It asks nothing of Redis before the first Take.
func New(client redis.UniversalClient, log *zap.Logger, now func() time.Time) *Limiter {
	_, clustered := client.(*redis.ClusterClient)
	return &Limiter{
		client: client, clustered: clustered, script: redis.NewScript(gcra), log: log, now: now,
		start: now(), replyLimit: replyLimit, table: table{seed: maphash.MakeSeed()},
		reporters: [paces]reporter{soon: {after: reportSoon}, late: {after: reportLate}},
	}
}

// Take takes n tokens of every limit, or of none: a call that one limit refuses does not use up the others. An n below 1
// counts as 1; an n above a limit's Count is always refused. The limits of one call are of different buckets; those whose rate
// is zero are left out. The end of ctx does not cut Take short, since others may wait for the same reply; it takes at most
// 100 ms.
func (l *Limiter) Take(ctx context.Context, n int64, limits ...Limit) Decision {
	n = max(n, 1)
	now := l.clock()
	var few [4]reservation
	all := l.reservations(few[:0], now, limits)
	if !l.usable(now) {
		return takeLocal(now, n, all)
	}
	ask, d := reserve(now, n, all)
	if ask {
		return l.takeShared(ctx, now, n, slices.Clone(all)) // A copy, so that all stays on the stack.
	}
	l.reportAllLater(all)
	return d
}

// clock returns the time since the start, in nanoseconds.
func (l *Limiter) clock() int64 { return int64(l.now().Sub(l.start)) }

func (l *Limiter) reservations(all []reservation, now int64, limits []Limit) []reservation {
	for i := range limits {
		if limit := &limits[i]; limit.Rate.IsLimit() {
			all = append(all, reservation{bucket: l.table.find(limit, now), kind: limit.Kind, rate: rate(limit.Rate)})
		}
	}
	return all
}

// takeShared takes the tokens that are left to Redis to decide about.
func (l *Limiter) takeShared(ctx context.Context, now, n int64, all []reservation) Decision {
	undecided := make([]*reservation, 0, len(all))
	for i := range all {
		if all[i].state == asked {
			undecided = append(undecided, &all[i])
		}
	}
	for _, group := range perSlot(l.clustered, undecided) {
		queries := make([]query, len(group))
		for i, r := range group {
			queries[i] = r.newQuery(now)
		}
		taken, err := l.ask(ctx, n, queries)
		after := l.clock()
		for i, r := range group {
			if r.apply(now, queries[i], err == nil); err == nil {
				r.settle(after, n, taken, queries[i].level)
			}
		}
		if err != nil {
			l.fail(group[0].tenant, err)
			release(after, n, all)
			return takeLocal(after, n, all)
		}
		if !taken {
			release(after, n, all)
			break
		}
	}
	l.reportAllLater(all)
	return tightest(all)
}

// perSlot splits what Redis is asked for into what one script may ask for: in a Cluster, the keys of one tenant.
func perSlot[T interface{ slot() string }](clustered bool, all []T) (groups [][]T) {
	if !clustered {
		return [][]T{all}
	}
	slices.SortStableFunc(all, func(a, b T) int { return strings.Compare(a.slot(), b.slot()) })
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].slot() == all[0].slot() {
			n++
		}
		groups, all = append(groups, all[:n]), all[n:]
	}
	return groups
}
