package tenant

import (
	"cmp"
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
	// Passing is for what goes by itself: a tenant that has some of it can be deleted. Relief is the end of the error, and tells
	// what to do: "each is kept for 24 hours; wait".
	Passing bool
	Relief  string
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

// ReadLimit returns the limit of the tenant of the context as the database has it, whoever acts for it; 0 means no limit.
func (q *Quota) ReadLimit(ctx context.Context, db pg.Querier) (int64, error) {
	_, most, err := q.usage(ctx, db)
	return most, err
}

// Exceeded returns the error for a tenant that has all it may have, for an uncounted quota that its domain counts itself.
func (q *Quota) Exceeded() error {
	return errs.New(errs.ResourceExhausted, "quota: the tenant has as many %s as it may have", q.What).Because("QUOTA_EXCEEDED")
}

// Prepare is called before what is only counted, and taken, once it is made. The quota must not be exact.
func (q *Quota) Prepare(ctx context.Context, tx *pg.Tx) error {
	_, err := q.takeFresh(ctx, tx, 0, func(int64, int64, int64) (int64, error) { return 0, nil })
	return err
}

// Take takes n more, and must be called in the transaction that creates them, before it does so. For an exact quota, it
// blocks until the earlier transactions of the same tenant that took from it have ended. Errors: ResourceExhausted.
func (q *Quota) Take(ctx context.Context, tx *pg.Tx, n int64) error {
	_, err := q.take(ctx, tx, n, q.check)
	return err
}

// Room takes nothing. Errors: ResourceExhausted if there is no room for one more. The quota must not be exact.
func (q *Quota) Room(ctx context.Context, tx *pg.Tx) error {
	_, err := q.takeFresh(ctx, tx, 0, func(has, _, most int64) (int64, error) {
		_, err := q.check(has, 1, most)
		return 0, err
	})
	return err
}

// TakeUpTo is Take for what may be fewer: it takes as many of n as there is room for, and returns how many. The error for those that it
// did not take is ResourceExhausted; with any other it took none.
func (q *Quota) TakeUpTo(ctx context.Context, tx *pg.Tx, n int64) (taken int64, err error) {
	var rest error
	taken, err = q.take(ctx, tx, n, func(has, n, most int64) (int64, error) {
		fits, err := q.check(has, n, most)
		if rest = err; err != nil {
			fits = max(0, most-has)
		}
		return fits, nil
	})
	return taken, cmp.Or(err, rest)
}

// take takes as many of n as fits says.
func (q *Quota) take(ctx context.Context, tx *pg.Tx, n int64, fits func(has, n, most int64) (int64, error)) (int64, error) {
	if n <= 0 {
		return 0, nil
	}
	if q.Fresh > 0 {
		return q.takeFresh(ctx, tx, n, fits)
	}
	if _, most, err := q.usage(ctx, tx); err != nil {
		return 0, err
	} else if most == 0 {
		return n, nil
	}
	// From here on, other transactions that take wait until this one ends. What they took before is counted by the next statement.
	if err := lockQuota(ctx, tx, auth.TenantOf(ctx), q.Name); err != nil {
		return 0, err
	}
	has, most, err := q.usage(ctx, tx)
	if err != nil {
		return 0, err
	}
	return fits(has, n, most)
}

// usage returns what the tenant of the context has and may have.
func (q *Quota) usage(ctx context.Context, db pg.Querier) (has, most int64, err error) {
	has, own, err := q.read(ctx, db, auth.TenantOf(ctx), q.Name)
	if own != nil {
		return has, *own, err
	}
	return has, q.Most, err
}

func (q *Quota) takeFresh(ctx context.Context, tx *pg.Tx, n int64, fits func(has, n, most int64) (int64, error)) (int64, error) {
	c := q.counted(auth.TenantOf(ctx))
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if now := q.now(); now.Sub(c.at) >= q.Fresh {
		has, most, err := q.usage(ctx, tx)
		if err != nil {
			return 0, err
		}
		c.n, c.most, c.at = has, most, now
	}
	taken, err := fits(c.n, n, c.most)
	c.n += taken
	return taken, err
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

// check returns n if there is room for it.
func (q *Quota) check(has, n, most int64) (int64, error) {
	if most == 0 || n <= most-has {
		return n, nil
	}
	more := ""
	if n > 1 {
		more = fmt.Sprintf(", and %d more are asked for", n)
	}
	relief := q.Relief
	if relief != "" {
		relief = "; " + relief
	}
	return 0, errs.New(errs.ResourceExhausted, "quota: the tenant has %d %s%s; at most %d are allowed%s", has, q.What, more, most, relief).
		Because("QUOTA_EXCEEDED")
}
