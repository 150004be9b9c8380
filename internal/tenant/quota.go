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

// QuotaConfig configures a Quota.
type QuotaConfig struct {
	Name string // the key in tenants' own quotas, and the resource that plinth_count (migration 5) counts
	What string // for people: "waiting messages"
	Most int64  // allowed to tenants without a quota of their own; 0 means no limit
	// Fresh is for how long the usage of a tenant is cached. Meanwhile, what this process takes is added to it, even if
	// that is rolled back. Taking then costs no statement, and the quota may be exceeded by what other processes take. A
	// quota with 0 is exact.
	Fresh time.Duration
	// Uncounted is for a quota that is only a number, see Limit.
	Uncounted bool
}

// Quota limits how much of something a tenant may have. It applies to the tenant, whoever acts for it, including the
// service itself.
type Quota struct {
	QuotaConfig
	read func(ctx context.Context, db pg.Querier, tenant, resource string) (n int64, own *int64, err error)
	now  func() time.Time

	mu     sync.Mutex
	counts map[string]*counted // by tenant
}

// counted is the cached usage of a tenant.
type counted struct {
	turn chan struct{} // is full while a call reads or takes
	at   time.Time     // when it was read
	n    int64         // including what was taken since
	most int64         // 0 means no limit
}

// NewQuota returns a Quota.
func NewQuota(c QuotaConfig) *Quota {
	return &Quota{QuotaConfig: c, read: selectUsage, now: time.Now, counts: map[string]*counted{}}
}

// Limit returns the limit of the tenant as the principal of the context has it; 0 means no limit.
func (q *Quota) Limit(ctx context.Context) int64 {
	if own, ok := auth.From(ctx).Tenant.Quotas[q.Name]; ok {
		return own
	}
	return q.Most
}

// Take takes n more, and must be called in the transaction that creates them, before it does so. For an exact quota, it
// blocks until the earlier transactions of the same tenant that took from it have ended. Errors: ResourceExhausted.
func (q *Quota) Take(ctx context.Context, tx *pg.Tx, n int64) error {
	if n <= 0 {
		return nil
	}
	if q.Fresh > 0 {
		return q.takeFresh(ctx, tx, n)
	}
	if _, most, err := q.usage(ctx, tx); err != nil || most == 0 {
		return err
	}
	// From here on, other transactions that take wait until this one ends. What they took before is counted by the next statement.
	if err := lockQuota(ctx, tx, auth.TenantOf(ctx), q.Name); err != nil {
		return err
	}
	has, most, err := q.usage(ctx, tx)
	if err != nil {
		return err
	}
	return q.check(has, n, most)
}

// usage returns what the tenant of the context has and may have.
func (q *Quota) usage(ctx context.Context, db pg.Querier) (has, most int64, err error) {
	has, own, err := q.read(ctx, db, auth.TenantOf(ctx), q.Name)
	if own != nil {
		return has, *own, err
	}
	return has, q.Most, err
}

func (q *Quota) takeFresh(ctx context.Context, tx *pg.Tx, n int64) error {
	c := q.counted(auth.TenantOf(ctx))
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if now := q.now(); now.Sub(c.at) >= q.Fresh {
		has, most, err := q.usage(ctx, tx)
		if err != nil {
			return err
		}
		c.n, c.most, c.at = has, most, now
	}
	if err := q.check(c.n, n, c.most); err != nil {
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
	if most == 0 || n <= most-has {
		return nil
	}
	more := ""
	if n > 1 {
		more = fmt.Sprintf(", and %d more are asked for", n)
	}
	return errs.New(errs.ResourceExhausted, "quota: the tenant has %d %s%s; at most %d are allowed", has, q.What, more, most).
		Because("QUOTA_EXCEEDED")
}
