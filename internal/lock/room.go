package lock

import (
	"context"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/pg"
	"plinth/internal/tenant"
)

// quotas are the quotas of this domain. What they limit is counted here: a lock goes by itself, so what is left of locks keeps
// nobody from deleting a tenant.
type quotas struct{ locks, waiters *tenant.Quota }

func newQuotas(l Limits) quotas {
	return quotas{
		locks:   tenant.NewQuota(tenant.QuotaConfig{Name: "locks", What: "locks", Most: l.Locks, Uncounted: true}),
		waiters: tenant.NewQuota(tenant.QuotaConfig{Name: "lock_waiters", What: "clients that wait for locks", Most: l.Waiters, Uncounted: true}),
	}
}

const (
	// roomFresh is for how long it is known how many locks a tenant has: counting them for each would cost a statement.
	roomFresh  = time.Second
	maxTenants = 10_000 // that are remembered
)

// room knows how many more locks tenants may have. What other processes make within roomFresh may exceed a quota.
type room struct {
	quotas
	mu      sync.Mutex
	tenants map[string]*usage
}

// usage is what a tenant has and may have, as of a time.
type usage struct {
	at             time.Time
	has            int64 // including what this process made since, and no more than most
	most, mostWait int64 // 0 is no limit
}

// left reports whether the tenant of ctx may have one more lock, and returns how many of its clients may wait at a time, 0 for no
// limit.
func (r *room) left(ctx context.Context, db *pg.DB) (more bool, waiters int64, err error) {
	name := auth.TenantOf(ctx)
	r.mu.Lock()
	u := r.tenants[name]
	if u != nil && time.Since(u.at) < roomFresh {
		more, waiters = u.most == 0 || u.has < u.most, u.mostWait
		r.mu.Unlock()
		return more, waiters, nil
	}
	r.mu.Unlock()
	u, err = r.read(ctx, db)
	if err != nil {
		return false, 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants == nil || len(r.tenants) >= maxTenants {
		r.tenants = map[string]*usage{}
	}
	r.tenants[name] = u
	return u.most == 0 || u.has < u.most, u.mostWait, nil
}

func (r *room) read(ctx context.Context, db *pg.DB) (*usage, error) {
	u := &usage{at: time.Now()}
	var err error
	if u.most, err = r.locks.ReadLimit(ctx, db); err != nil {
		return nil, err
	}
	if u.mostWait, err = r.quotas.waiters.ReadLimit(ctx, db); err != nil || u.most == 0 {
		return u, err
	}
	u.has, err = countLocks(ctx, db, u.most)
	return u, err
}

// took counts a lock that the tenant has more.
func (r *room) took(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.tenants[tenant]; u != nil {
		u.has++
	}
}
