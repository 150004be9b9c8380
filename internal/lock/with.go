package lock

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// forever is how long With waits: until its context ends.
const forever = 100 * 365 * 24 * time.Hour

// marginShare is which part of the TTL a context ends before its lease does, for clocks that differ.
const marginShare = 20

// ErrLost is the cause of a context of With that ended because its lease did.
var ErrLost = errs.New(errs.Aborted, "the lease of a lock ended while its work was not done")

// Option is an option of With.
type Option func(*Request)

// TTL is how long the lease lasts when it is not renewed any more: 1 s to 1 h, 30 s without this option. A process that dies holds
// up others for that long.
func TTL(ttl time.Duration) Option { return func(r *Request) { r.TTL = ttl } }

// Wait is how long to wait for a lock that somebody has; without this option, until the context ends. With 0 it does not wait.
func Wait(wait time.Duration) Option { return func(r *Request) { r.Wait = wait } }

// With takes a correct lock of the context's tenant and calls fn while it has it. The lease is renewed meanwhile. The context of fn
// ends with the lease, where that cannot be renewed in time or is taken away: its cause is then ErrLost. It never ends later than the
// TTL after the question that took or last renewed the lease was sent, less a twentieth, whatever became of the process and the
// network since, as long as the clock of PostgreSQL does not jump ahead.
//
// token is the fencing token of the lease, for whatever fn writes outside of this database. A transaction in this database needs
// none: see Guard.
//
// The error is that of fn; ErrLost if the lease had ended before fn did, and fn has no other error than the end of its context; or
// one of Acquire.
func (s *Service) With(ctx context.Context, name string, fn func(ctx context.Context, token int64) error, options ...Option) error {
	n, err := ParseName(name)
	if err != nil {
		return err
	}
	r := Request{Name: n, Owner: s.owner, Wait: forever}
	for _, o := range options {
		o(&r)
	}
	r.TTL = ttlOr(r.TTL)
	lease, err := s.Acquire(ctx, r)
	if err != nil {
		return err
	}
	within, h := s.keeper.hold(ctx, lease, r.TTL)
	lost := false
	defer func() { // Also after a panic.
		if !lost {
			s.keeper.drop(h)
		}
		s.forget(ctx, n, lease.ID, false)
	}()
	err = fn(within, lease.Token)
	if lost = s.keeper.drop(h); lost && (err == nil || errors.Is(err, context.Canceled)) {
		return errs.Wrap(errors.Join(ErrLost, err), errs.Aborted, "the lease of the lock %q ended while its work was not done", n)
	}
	return err
}

// Guard makes sure that the leases of ctx, which is that of a function called by With, are valid until tx is committed. It is the last
// statement of the transaction: nobody can take the lock over before the commit, so what the transaction wrote is written by who
// has the lock, without a fencing token. Renewals wait for the commit as well. Errors: ErrLost, and then nothing of tx may be
// committed; Unavailable.
func Guard(ctx context.Context, tx *pg.Tx) error {
	h, _ := ctx.Value(holdingKey{}).(*holding)
	if h == nil {
		return errors.New("lock: Guard is called outside of With")
	}
	for ; h != nil; h = h.outer {
		if h.over() {
			return ErrLost
		}
		valid, err := guardLease(ctx, tx, h.tenant, h.Name, h.ID)
		if err != nil {
			return err
		}
		if !valid {
			h.lose()
			return ErrLost
		}
	}
	return nil
}

type holdingKey struct{}

// holding is a lease that With has.
type holding struct {
	Lease
	tenant string
	ttl    time.Duration
	outer  *holding // of a call of With around this one
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	end     time.Time // of the context
	renewAt time.Time
	timer   *time.Timer
}

// newHolding returns a holding and the context that ends with it.
func newHolding(ctx context.Context, lease Lease, ttl time.Duration) (context.Context, *holding) {
	h := &holding{Lease: lease, tenant: auth.TenantOf(ctx), ttl: ttl}
	h.outer, _ = ctx.Value(holdingKey{}).(*holding)
	ctx, h.cancel = context.WithCancelCause(ctx)
	h.timer = time.AfterFunc(time.Hour, func() { h.over() })
	h.extend(lease.End)
	return leaseContext{ctx, h}, h
}

// extend has the holding last as long as a lease that ends then. One that is over stays over.
func (h *holding) extend(leaseEnd time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if !h.end.IsZero() && !now.Before(h.end) {
		return
	}
	h.end = leaseEnd.Add(-h.ttl / marginShare)
	h.renewAt = leaseEnd.Add(-h.ttl * 2 / 3)
	h.timer.Reset(h.end.Sub(now))
}

// over reports whether the lease has ended, and ends the context then: after a stop of the process, a timer may be late.
func (h *holding) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.end) {
		return false
	}
	h.cancel(ErrLost)
	return true
}

// lose ends the holding at once.
func (h *holding) lose() {
	h.mu.Lock()
	h.end = time.Now()
	h.mu.Unlock()
	h.over()
}

// postpone has the next renewal tried again later, for it failed.
func (h *holding) postpone(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.renewAt = time.Now().Add(d)
}

// due returns when the lease is to be renewed, and when it ends.
func (h *holding) due() (renewAt, end time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.renewAt, h.end
}

// leaseContext is a context that has ended as soon as its lease has, even if no timer has fired yet.
type leaseContext struct {
	context.Context
	h *holding
}

func (c leaseContext) Err() error {
	c.h.over()
	return c.Context.Err()
}

func (c leaseContext) Value(key any) any {
	if key == (holdingKey{}) {
		return c.h
	}
	return c.Context.Value(key)
}

// renewal asks for a lease to be renewed.
type renewal struct {
	tenant string
	name   Name
	id     uuid.UUID
	ttl    time.Duration
}
