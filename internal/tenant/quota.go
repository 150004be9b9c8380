package tenant

import (
	"context"
	"fmt"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// maxCounts bounds how many tenants' counts a quota remembers.
const maxCounts = 10_000

// Quota is how much of something a tenant may have.
type Quota struct {
	name, what string
	most       int64
	count      func(ctx context.Context, db pg.Querier) (int64, error)
	fresh      time.Duration
	now        func() time.Time

	mu     sync.Mutex
	counts map[string]*counted // by tenant
}

// counted is a count that may be used again.
type counted struct {
	turn chan struct{} // is full while somebody counts or takes
	at   time.Time     // when n was counted
	n    int64         // with what was taken since
}

// NewQuota makes a quota. name is what tenants' own quotas call it, what is for people: "queues". most is allowed to tenants
// without one of their own; 0 is no limit. count counts what the tenant of the context has; nil is for a quota that is only a
// number, see Limit. With fresh, a count is used again for that long, with what this process took since, rolled back or not: it
// costs no statement then, and may be passed by what other processes take meanwhile. Without, it holds exactly.
func NewQuota(name, what string, most int64, count func(ctx context.Context, db pg.Querier) (int64, error), fresh time.Duration) *Quota {
	return &Quota{name: name, what: what, most: most, count: count, fresh: fresh, now: time.Now, counts: map[string]*counted{}}
}

// Limit is what the tenant of the context may have; 0 is no limit.
func (q *Quota) Limit(ctx context.Context) int64 {
	if own, ok := auth.From(ctx).Tenant.Quotas[q.name]; ok {
		return own
	}
	return q.most
}

// Take is for n more, in the transaction that makes them and before it does. Whoever takes of an exact quota waits for those
// of the same tenant who took before, until their transactions end. Errors: ResourceExhausted.
func (q *Quota) Take(ctx context.Context, tx *pg.Tx, n int64) error {
	most := q.Limit(ctx)
	switch {
	case most <= 0 || n <= 0:
		return nil
	case q.fresh > 0:
		return q.takeFresh(ctx, tx, n, most)
	}
	if err := q.lock(ctx, tx); err != nil {
		return err
	}
	has, err := q.count(ctx, tx)
	if err != nil {
		return err
	}
	return q.check(has, n, most)
}

// lock has all who take wait until the transaction ends. What they took before is counted by the next statement.
func (q *Quota) lock(ctx context.Context, tx *pg.Tx) error {
	return lockQuota(ctx, tx, auth.TenantOf(ctx), q.name)
}

func (q *Quota) takeFresh(ctx context.Context, tx *pg.Tx, n, most int64) error {
	c := q.counted(auth.TenantOf(ctx))
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if now := q.now(); now.Sub(c.at) >= q.fresh {
		has, err := q.count(ctx, tx)
		if err != nil {
			return err
		}
		c.n, c.at = has, now
	}
	if err := q.check(c.n, n, most); err != nil {
		return err
	}
	c.n += n
	return nil
}

func (q *Quota) counted(tenant string) *counted {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.counts[tenant]
	if c == nil {
		if len(q.counts) >= maxCounts {
			clear(q.counts)
		}
		c = &counted{turn: make(chan struct{}, 1)}
		q.counts[tenant] = c
	}
	return c
}

func (q *Quota) check(has, n, most int64) error {
	if n <= most-has {
		return nil
	}
	more := ""
	if n > 1 {
		more = fmt.Sprintf(", and %d more are asked for", n)
	}
	return errs.New(errs.ResourceExhausted, "quota: the tenant has %d %s%s; at most %d are allowed", has, q.what, more, most).
		Because("QUOTA_EXCEEDED")
}
