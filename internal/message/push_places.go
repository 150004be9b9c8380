package message

import (
	"context"
	"math"
	"sync"
	"sync/atomic"

	"plinth/internal/share"
)

// pushPlaces are the calls of pushes that a process may make at a time. A tenant has at most three times as many as stay free, and
// a queue at most half of what its tenant may have: as many as stay free of that. So slow endpoints never take the last place of others.
type pushPlaces struct {
	most int64
	all  *share.Pool // by tenant

	mu      sync.Mutex
	tenants map[string]*tenantPlaces
}

// tenantPlaces are those of one tenant, by queue.
type tenantPlaces struct {
	*share.Pool
	used    atomic.Int64
	holders int // guarded by pushPlaces.mu
}

// placesOf returns a pool of one place at a time, of which an owner has at most some times as many as stay free.
func placesOf(capacity func() int64, times int64) *share.Pool {
	return share.New(share.Config{Capacity: capacity, Times: times, Small: 1, Waiters: math.MaxInt32})
}

// tenantTimes is how many times as much as stays free a tenant may have.
const tenantTimes = 3

// newPushPlaces returns that many places; 0 is no limit.
func newPushPlaces(most int64) *pushPlaces {
	if most == 0 {
		most = math.MaxInt32
	}
	return &pushPlaces{most: most, all: placesOf(func() int64 { return most }, tenantTimes), tenants: map[string]*tenantPlaces{}}
}

// hold returns the places of a tenant, which are kept until drop.
func (p *pushPlaces) hold(tenant string) *tenantPlaces {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tenants[tenant]
	if t == nil {
		t = &tenantPlaces{}
		t.Pool = placesOf(func() int64 {
			others := p.all.Used() - t.used.Load()
			return max(1, (p.most-others)*tenantTimes/(tenantTimes+1))
		}, 1)
		p.tenants[tenant] = t
	}
	t.holders++
	return t
}

// drop forgets the places of a tenant that nobody holds any more.
func (p *pushPlaces) drop(tenant string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tenants[tenant]
	if t.holders--; t.holders == 0 {
		delete(p.tenants, tenant)
	}
}

// enter blocks until a queue may have one more, which leave gives back. It returns false if ctx ended before that.
func (p *pushPlaces) enter(ctx context.Context, q tenantQueue) bool {
	t := p.hold(q.tenant)
	if t.Acquire(ctx, q.queue.name, 1, math.MaxInt64) != nil {
		p.drop(q.tenant)
		return false
	}
	if p.all.Acquire(ctx, q.tenant, 1, math.MaxInt64) != nil {
		t.Release(q.queue.name, 1)
		p.drop(q.tenant)
		return false
	}
	t.used.Add(1)
	return true
}

func (p *pushPlaces) leave(q tenantQueue) {
	p.mu.Lock()
	t := p.tenants[q.tenant]
	p.mu.Unlock()
	t.used.Add(-1)
	p.all.Release(q.tenant, 1)
	t.Release(q.queue.name, 1)
	p.drop(q.tenant)
}
