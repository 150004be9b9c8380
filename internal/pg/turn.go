package pg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/share"
)

// Tenants that share a pool: one alone has at most three quarters of its connections, and those that wait take turns.
const (
	shareTimes   = 3
	turnLimit    = time.Hour // The context ends first.
	maxWaitTurns = 1 << 16   // of one tenant
)

func newShares(conns int32) *share.Pool {
	return share.New(share.Config{
		Capacity: func() int64 { return int64(conns) }, Times: shareTimes, Small: 1, Waiters: maxWaitTurns,
	})
}

// turn blocks until the tenant of ctx may have a connection of the pool, and returns what frees its place.
func (p *pool) turn(ctx context.Context) (release func(), err error) {
	if p.shares == nil {
		return func() {}, nil
	}
	tenant := auth.TenantOf(ctx)
	if err := p.shares.Acquire(ctx, tenant, 1, turnLimit); err != nil {
		return nil, driverError(err)
	}
	return func() { p.shares.Release(tenant, 1) }, nil
}

// turnResults are the results of a batch that frees its place when they are closed.
type turnResults struct {
	pgx.BatchResults
	release func() // nil once it was called
}

func (r *turnResults) Close() error {
	err := r.BatchResults.Close()
	if r.release != nil {
		r.release()
		r.release = nil
	}
	return err
}
