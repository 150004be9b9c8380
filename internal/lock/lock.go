package lock

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

const (
	maxText = 200 // bytes of a name or an owner
	minTTL  = time.Second
	maxTTL  = time.Hour

	defaultTTL = 30 * time.Second

	cleanUpLimit = 5 * time.Second // for ending what a caller has left
	waitMin      = 50 * time.Millisecond
	waitMax      = time.Second
)

// Name is the name of a lock: 1 to 200 bytes without control characters.
type Name struct{ name string }

// ParseName returns the name. Errors: InvalidArgument.
func ParseName(name string) (Name, error) {
	if err := checkText("name", name); err != nil {
		return Name{}, err
	}
	return Name{name}, nil
}

func (n Name) String() string { return n.name }

func checkText(field, text string) error {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if text == "" || len(text) > maxText || !utf8.ValidString(text) || strings.ContainsFunc(text, control) {
		return errs.New(errs.InvalidArgument, "%s: 1 to %d bytes without control characters are allowed", field, maxText)
	}
	return nil
}

// Request asks for a lock.
type Request struct {
	Name    Name
	TTL     time.Duration // 1 s to 1 h; 0 is 30 s
	Wait    time.Duration // how long to wait for a lock that somebody has; 0 is not at all
	Owner   string        // 1 to 200 bytes without control characters
	LeaseID uuid.UUID     // of the caller's making, so that it may call again; zero is a new one
	Fast    bool
	// Finishing ends when the process stops: then Acquire returns Unavailable, and who calls again elsewhere with the same LeaseID
	// keeps its place. nil is never.
	Finishing <-chan struct{}
}

// Lease is the right to a lock until End.
type Lease struct {
	Name      Name
	ID        uuid.UUID
	Token     int64 // 0 for a fast lock
	ExpiresAt time.Time
	// End is when the lease ends by this process's monotonic clock, counted from before the question that took or renewed it was
	// sent. It is never later than the end that PostgreSQL or Redis knows.
	End time.Time
}

// Acquire takes a lock or waits for it. It holds no connection while it waits. Errors: InvalidArgument; Aborted where
// somebody has the lock when the wait is over, and until when; ResourceExhausted; Unavailable.
func (s *Service) Acquire(ctx context.Context, r Request) (Lease, error) {
	r.TTL = ttlOr(r.TTL)
	if err := r.check(); err != nil {
		return Lease{}, err
	}
	ours := r.LeaseID == uuid.Nil
	if ours {
		r.LeaseID = uuid.New()
	}
	began := time.Now()
	lease, err := s.acquire(ctx, r)
	if err == nil && ours {
		err = ctx.Err() // The caller left while the lock was taken, and will not hear of the lease.
	}
	if err == nil {
		s.metrics.acquired(r.Fast, time.Since(began))
		return lease, nil
	}
	if ours && (ctx.Err() != nil || errs.Is(err, errs.Unavailable)) {
		// Nobody knows this lease but us, and the lock may have been taken at the last moment, or by a call whose reply was lost.
		go s.forget(ctx, r.Name, r.LeaseID, r.Fast)
	}
	return Lease{}, err
}

func ttlOr(ttl time.Duration) time.Duration {
	if ttl == 0 {
		return defaultTTL
	}
	return ttl
}

func (r *Request) check() error {
	switch {
	case r.Name == Name{}:
		return checkText("name", "")
	case r.Wait < 0:
		return errs.New(errs.InvalidArgument, "wait: it is not negative")
	}
	if err := checkTTL(r.TTL); err != nil {
		return err
	}
	return checkText("owner", r.Owner)
}

func checkTTL(ttl time.Duration) error {
	if ttl < minTTL || ttl > maxTTL {
		return errs.New(errs.InvalidArgument, "ttl: 1s to 1h are allowed")
	}
	return nil
}

func (s *Service) acquire(ctx context.Context, r Request) (Lease, error) {
	if r.Fast {
		return s.acquireFast(ctx, r)
	}
	if r.Wait == 0 {
		lease, held, err := s.take(ctx, r, 0)
		if err == nil && held != nil {
			return Lease{}, errHeld(r.Name, *held)
		}
		return lease, err
	}
	return s.wait(ctx, r)
}

// forget ends a lease that its caller has never heard of.
func (s *Service) forget(ctx context.Context, name Name, id uuid.UUID, fast bool) {
	defer observe.LogPanic(s.log)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpLimit)
	defer cancel()
	_, _ = s.Release(ctx, name, id, fast) // Else it ends by itself.
}

// take takes a lock that nobody has and nobody was earlier to wait for. Otherwise it returns who has it and, if wait is more than 0,
// queues the caller for that long or keeps it in its place.
func (s *Service) take(ctx context.Context, r Request, wait time.Duration) (Lease, *held, error) {
	room, waiters, err := s.room.left(ctx, s.db)
	if err != nil {
		return Lease{}, nil, err
	}
	sent := time.Now()
	t, err := takeLock(ctx, s.db, r, takeOptions{process: s.process, wait: wait, room: room, waiters: waiters})
	switch {
	case err != nil:
		return Lease{}, nil, err
	case t.token != 0:
		if t.made {
			s.room.took(auth.TenantOf(ctx))
		}
		return Lease{Name: r.Name, ID: r.LeaseID, Token: t.token, ExpiresAt: t.expiresAt, End: sent.Add(r.TTL)}, nil, nil
	case t.full:
		return Lease{}, nil, s.quotas.locks.Exceeded()
	case wait > 0 && !t.queued:
		return Lease{}, nil, s.quotas.waiters.Exceeded()
	}
	if t.held.left > t.held.ttl+clockSlack { // The clock of PostgreSQL was set back: such a lease would last for that much longer.
		t.held.left = t.held.ttl
		if err := shortenLease(ctx, s.db, r.Name); err != nil {
			return Lease{}, nil, err
		}
	}
	return Lease{}, &t.held, nil
}

// clockSlack is how much longer than its TTL a lease may seem to last.
const clockSlack = time.Second

// held is who has a lock. It is zero where nobody does, but somebody was earlier to ask.
type held struct {
	owner string
	ttl   time.Duration
	left  time.Duration // until the lease ends
}

func errHeld(name Name, h held) error {
	after := max(h.left, waitMin)
	if h.owner == "" {
		return errs.New(errs.Aborted, "name: others wait for the lock %q already", name).Because("LOCK_HELD").After(after)
	}
	return errs.New(errs.Aborted, "name: the lock %q is held by %q, for %v more unless it is renewed", name, h.owner, after.Round(time.Millisecond)).
		Because("LOCK_HELD").After(after)
}

// Renew has a lease last for ttl from now, 30 s if it is 0. Errors: InvalidArgument; FailedPrecondition for a lease that has
// ended; Unavailable.
func (s *Service) Renew(ctx context.Context, name Name, id uuid.UUID, ttl time.Duration, fast bool) (Lease, error) {
	ttl = ttlOr(ttl)
	if err := checkTTL(ttl); err != nil {
		return Lease{}, err
	}
	if fast {
		return s.renewFast(ctx, name, id, ttl)
	}
	backoff := loop.Backoff{Min: waitMin, Max: waitMax}
	for {
		sent := time.Now()
		found, err := renewLeases(ctx, s.db, []renewal{{auth.TenantOf(ctx), name, id, ttl}})
		if err != nil {
			return Lease{}, err
		}
		switch r := found[0]; r.state {
		case renewed:
			return Lease{Name: name, ID: id, Token: r.token, ExpiresAt: r.expiresAt, End: sent.Add(ttl)}, nil
		case lost:
			return s.renewUnknown(ctx, name, id, ttl)
		}
		if !loop.Sleep(ctx, backoff.Next()) { // A transaction guards the lease and is about to be committed.
			return Lease{}, ctx.Err()
		}
	}
}

// renewUnknown renews a lease that is none of a correct lock.
func (s *Service) renewUnknown(ctx context.Context, name Name, id uuid.UUID, ttl time.Duration) (Lease, error) {
	lease, err := s.renewFast(ctx, name, id, ttl)
	if errs.Is(err, errs.Unavailable) {
		return Lease{}, errLost(name)
	}
	return lease, err
}

func errLost(name Name) error {
	return errs.New(errs.FailedPrecondition, "lease_id: the lease of the lock %q has ended", name).Because("LEASE_LOST")
}

// Release ends a lease, and reports whether it did: one that has ended before is no error. Errors: Unavailable.
func (s *Service) Release(ctx context.Context, name Name, id uuid.UUID, fast bool) (released bool, err error) {
	if fast {
		return s.releaseFast(ctx, name, id)
	}
	released, next, err := releaseLock(ctx, s.db, name, id)
	if err != nil {
		return false, err
	}
	if released {
		s.wake(auth.TenantOf(ctx), name, next)
		return true, nil
	}
	if released, err = s.releaseFast(ctx, name, id); errs.Is(err, errs.Unavailable) {
		return false, nil
	}
	return released, err
}

// Lock is a correct lock that somebody has.
type Lock struct {
	Name       Name
	Holder     string // the principal that took it
	Owner      string // who that is in its own words
	Token      int64
	AcquiredAt time.Time
	ExpiresAt  time.Time
	Waiters    int64
}

// Get returns a lock that somebody has. Errors: NotFound.
func (s *Service) Get(ctx context.Context, name Name) (Lock, error) {
	return selectLock(ctx, s.db, name)
}

// List lists the locks that somebody has, by name, in pages as resource.List has them. Errors: InvalidArgument for a token that is
// not of this list.
func (s *Service) List(ctx context.Context, size int, token string) (locks []Lock, next string, err error) {
	list := resource.List[Lock, string]{
		Of:       []any{"locks", auth.TenantOf(ctx)},
		Position: func(l Lock) string { return l.Name.name },
		Parse:    func(name string) (string, error) { return name, checkText("name", name) },
		Select: resource.OneMore(func(after string, limit int) ([]Lock, error) {
			return selectLocks(ctx, s.db, after, limit)
		}),
	}
	return list.Page(size, token)
}

func errNotHeld(name Name) error {
	return errs.New(errs.NotFound, "name: nobody has the lock %q", name)
}

// ForcedRelease is what ForceRelease did.
type ForcedRelease struct {
	ID         string // UUIDv7
	Name       Name
	Holder     string // whose the lock was
	Owner      string
	Token      int64
	Principal  string // who released it
	Reason     string
	ReleasedAt time.Time
}

// ForceRelease takes a lock from who has it, and keeps who did so and why in the same transaction. It waits for a transaction that
// guards the lease. Errors: InvalidArgument without a reason, or for one that PostgreSQL cannot store; NotFound.
func (s *Service) ForceRelease(ctx context.Context, name Name, reason string) (f ForcedRelease, err error) {
	if strings.TrimSpace(reason) == "" {
		return f, errs.New(errs.InvalidArgument, "reason: say why")
	}
	if !pg.IsText(reason) {
		return f, errs.New(errs.InvalidArgument, "reason: valid UTF-8 without U+0000 is allowed")
	}
	id, err := uuid.NewV7()
	if err != nil {
		return f, err
	}
	f = ForcedRelease{ID: id.String(), Name: name, Principal: auth.From(ctx).ID, Reason: reason}
	var next uuid.UUID
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		if f, err = releaseByForce(ctx, tx, f); err != nil {
			return err
		}
		next, err = selectNext(ctx, tx, name)
		return err
	})
	if err != nil {
		return ForcedRelease{}, err
	}
	s.wake(auth.TenantOf(ctx), name, next)
	return f, nil
}

// ListForcedReleases lists what ForceRelease did, the latest first, in pages as resource.List has them. Errors: InvalidArgument for
// a token that is not of this list.
func (s *Service) ListForcedReleases(ctx context.Context, size int, token string) (all []ForcedRelease, next string, err error) {
	list := resource.List[ForcedRelease, uuid.UUID]{
		Of:       []any{"forced releases", auth.TenantOf(ctx)},
		Start:    uuid.Max,
		Position: func(f ForcedRelease) string { return f.ID },
		Parse:    uuid.Parse,
		Select: resource.OneMore(func(before uuid.UUID, limit int) ([]ForcedRelease, error) {
			return selectForced(ctx, s.db, before, limit)
		}),
	}
	return list.Page(size, token)
}
