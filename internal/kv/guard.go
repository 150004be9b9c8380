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
	workers   workers
}

// outage is a time in which Redis is away.
type outage struct {
	cause     error
	nextProbe atomic.Int64 // in nanoseconds since 1970
}

// NewGuard returns a Guard of a client.
func NewGuard(client redis.UniversalClient) *Guard {
	_, clustered := client.(*redis.ClusterClient)
	return &Guard{client: client, clustered: clustered, workers: make(workers)}
}

// Do runs f, which has commands for keys of one tenant, and does not wait for it for longer than limit, whatever the client is
// set to. While Redis is away it returns an error at once, for which Away reports true. If ctx ends, it returns the error of ctx.
// f may go on after Do has returned, so what it writes to must be its own.
func (g *Guard) Do(ctx context.Context, tenant string, limit time.Duration, f func(context.Context, redis.UniversalClient) error) error {
	tenant = g.Part(tenant)
	if o, away := g.outages.Load(tenant); away {
		g.probeOnce(tenant, o.(*outage))
		return fmt.Errorf("known to be away: %w", o.(*outage).cause)
	}
	err := g.workers.within(ctx, limit, func(ctx context.Context) error { return f(ctx, g.client) })
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
			err := g.workers.within(context.Background(), probeLimit, func(ctx context.Context) error {
				return g.client.Set(ctx, Key(tenant, "probe"), 1, time.Minute).Err() // One that can only be read is of no use.
			})
			if !Away(err) {
				g.outages.CompareAndDelete(tenant, o)
			}
			o.nextProbe.Store(time.Now().Add(probeEvery).UnixNano())
		}()
	}
}

// within runs f with a deadline, and does not wait for it any longer.
func (w workers) within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	w.run(func() { done <- f(ctx) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no reply within %v: %w", limit, context.DeadlineExceeded)
	}
}

// workers hands functions to goroutines that have run one lately. Their stacks have grown already: in a new goroutine that takes as
// long as a quarter of a command.
type workers chan func()

const workerIdle = time.Second // before a goroutine ends

// run runs f in another goroutine.
func (w workers) run(f func()) {
	select {
	case w <- f:
	default:
		go w.work(f)
	}
}

func (w workers) work(f func()) {
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		f()
		idle.Reset(workerIdle)
		select {
		case f = <-w:
		case <-idle.C:
			return
		}
	}
}
