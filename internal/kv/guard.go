package kv

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	probeEvery = 250 * time.Millisecond // how often a Redis that is away is asked whether it is back
	probeLimit = time.Second
)

// Guard runs commands for callers that cannot wait for a Redis that is away: the first of them waits for a bounded time, and
// the others are told at once until Redis is back. In a Cluster, that is known for each tenant by itself, since the keys of
// another may be on a node that answers. It is safe for concurrent use.
type Guard struct {
	client    redis.UniversalClient
	clustered bool
	outages   sync.Map // of *outage, by tenant
}

// outage is a time in which Redis is away.
type outage struct {
	cause     error
	nextProbe atomic.Int64 // in nanoseconds since 1970
}

// NewGuard returns a Guard of a client.
func NewGuard(client redis.UniversalClient) *Guard {
	_, clustered := client.(*redis.ClusterClient)
	return &Guard{client: client, clustered: clustered}
}

// Do runs f, which has commands for keys of one tenant, and has the client give up when limit is over, whatever it is set to
// otherwise. While Redis is away it returns an error at once, for which Away reports true. If the deadline of ctx passes, it returns
// the error of ctx; if ctx is canceled, that may take until a reply comes, or limit is over.
func (g *Guard) Do(ctx context.Context, tenant string, limit time.Duration, f func(context.Context, redis.UniversalClient) error) error {
	tenant = g.Part(tenant)
	if o, away := g.outages.Load(tenant); away {
		g.probeOnce(tenant, o.(*outage))
		return fmt.Errorf("known to be away: %w", o.(*outage).cause)
	}
	err := within(ctx, limit, func(ctx context.Context) error { return f(ctx, g.client) })
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case Away(err):
		o := &outage{cause: err}
		o.nextProbe.Store(time.Now().Add(probeEvery).UnixNano())
		g.outages.LoadOrStore(tenant, o)
	}
	return err
}

// Part names the tenants that Redis is away for together, and whose keys one query may have.
func (g *Guard) Part(tenant string) string {
	if g.clustered {
		return tenant
	}
	return ""
}

// probeOnce has Redis asked whether it is back, unless that was done lately.
func (g *Guard) probeOnce(tenant string, o *outage) {
	now := time.Now()
	if at := o.nextProbe.Load(); now.UnixNano() >= at && o.nextProbe.CompareAndSwap(at, now.Add(probeLimit+probeEvery).UnixNano()) {
		go func() {
			err := within(context.Background(), probeLimit, func(ctx context.Context) error {
				return g.client.Set(ctx, Key(tenant, "probe"), 1, time.Minute).Err() // One that can only be read is of no use.
			})
			if !Away(err) {
				g.outages.CompareAndDelete(tenant, o)
			}
			o.nextProbe.Store(time.Now().Add(probeEvery).UnixNano())
		}()
	}
}

// within runs f with a deadline, which the client keeps to by itself: no goroutine has to wait for it.
func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := f(bounded)
	if deadline, ok := ctx.Deadline(); ok && err != nil && !time.Now().Before(deadline) {
		<-ctx.Done() // A connection may have noticed before ctx: what was cut short is not Redis's doing.
	}
	return err
}
