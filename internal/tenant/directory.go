package tenant

import (
	"context"
	"crypto/subtle"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

const (
	channel = "plinth_tenants"
	changed = "changed" // the payload of notifications that tenants or keys have changed

	// followEvery is how often changes are asked for while calls come, so that calls find a recent answer. At other times it is
	// followIdle, for notifications that were lost.
	followEvery = 250 * time.Millisecond
	followIdle  = 10 * time.Second
	// unanswered is after how many questions without an answer the log says so: at the first start of all, the schema is some seconds away.
	unanswered = 20
	// busyFor is how long after a call more are expected.
	busyFor = 2 * time.Second
	// calledAgain is the precision of the time of the last call: otherwise each call would write what all of them read.
	calledAgain = 100 * time.Millisecond
	// maxStale is for how long an answer is relied on, counted from before the question. Together with the time that a call
	// takes to come this far, it stays below the promised second.
	maxStale = 900 * time.Millisecond
)

// snapshot is what was looked up while the number of changes was n. It is dropped as a whole.
type snapshot struct {
	n         int64
	confirmed atomic.Int64 // when n was certainly the number, in terms of Service.elapsed
	keys      *cache[auth.KeyHash, holder]
	ids       *cache[string, holder] // the same by the ids of the keys, for who made something that outlasts a call
	tenants   *cache[string, Tenant]
	over      chan struct{} // closed when the snapshot is dropped
}

func (s *Service) newSnapshot(n int64, confirmed time.Duration) *snapshot {
	snap := &snapshot{
		n: n, keys: newCache(s.now, holdersOf(s, selectHolders)), ids: newCache(s.now, holdersOf(s, selectHoldersByID)),
		tenants: newCache(s.now, s.named), over: make(chan struct{}),
	}
	snap.confirmed.Store(int64(confirmed))
	return snap
}

// holder is the principal of a key.
type holder struct {
	principal auth.Principal
	expires   time.Time    // zero means never
	refused   error        // why it is refused; nil if it is not
	usedAt    atomic.Int64 // the last recorded use, in Unix nanoseconds
	slot      atomic.Value // for the rate limiter
}

// What the ids of principals begin with, or are.
const (
	keyPrincipal   = "key:"
	adminPrincipal = "admin" // has the key of the configuration
)

// id returns the id of the key.
func (h *holder) id() string { return h.principal.ID[len(keyPrincipal):] }

// common holds values that keys of one snapshot share. They are shared because the garbage collector would have to scan a
// copy for each key.
type common struct {
	tenants map[string]auth.Tenant
	scopes  map[string][]string // by the scopes, joined with spaces
}

func (c *common) of(t Tenant, scopes []string) (auth.Tenant, []string) {
	record, ok := c.tenants[t.Name]
	if !ok {
		record = t.record()
		c.tenants[t.Name] = record
	}
	words := strings.Join(scopes, " ")
	if _, ok := c.scopes[words]; !ok {
		c.scopes[words] = scopes
	}
	return record, c.scopes[words]
}

// holdersOf returns the function that looks up holders of keys for a cache of one snapshot. Only one lookup of a cache runs at a time,
// so what its holders share needs no lock. A key that is created later is found at once all the same: nobody can have asked for it
// before.
func holdersOf[K comparable](s *Service, query func(context.Context, *pg.System, []K) (map[K]found, error)) func(context.Context, []K) (map[K]*holder, error) {
	common := &common{tenants: map[string]auth.Tenant{}, scopes: map[string][]string{}}
	return func(ctx context.Context, wanted []K) (map[K]*holder, error) {
		found, err := query(ctx, s.directory, wanted)
		if err != nil {
			return nil, err
		}
		holders := make(map[K]*holder, len(found))
		for key, f := range found {
			holders[key] = newHolder(f, common)
		}
		return holders, nil
	}
}

func newHolder(f found, common *common) *holder {
	k, t := f.key, f.tenant
	h := &holder{expires: k.ExpiresAt}
	record, scopes := common.of(t, k.Scopes)
	h.principal = auth.Principal{ID: keyPrincipal + k.ID, Tenant: record, Scopes: scopes, Rate: k.Rate, RateSlot: &h.slot}
	switch {
	case t.isDeleted():
		h.refused = errs.New(errs.Unauthenticated, "this API key's tenant was deleted")
	case !k.RevokedAt.IsZero():
		h.refused = errs.New(errs.Unauthenticated, "this API key was revoked; ask an administrator for another")
	case t.Disabled:
		h.refused = errDisabled(t.Name)
	}
	return h
}

func (s *Service) named(ctx context.Context, names []string) (map[string]*Tenant, error) {
	return selectNamed(ctx, s.directory, names)
}

// follow asks for changes until ctx ends, and at once after a notification.
func (s *Service) follow(ctx context.Context) error {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	failures := 0
	for asked := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-s.heard:
		case <-ticker.C:
			now := s.elapsed()
			if failures == 0 && now-asked < followIdle && now-time.Duration(s.called.Load()) > busyFor {
				continue
			}
		}
		asked = s.elapsed()
		err := s.ask(ctx)
		if err == nil {
			failures = 0
			continue
		}
		failures++
		if failures == unanswered && ctx.Err() == nil {
			s.log.Warn("changes of tenants and keys cannot be read; calls are refused while that lasts", zap.Error(err))
		}
	}
}

// current returns the snapshot if it was known to be the latest one at most maxStale ago and after the last change of
// this process. Otherwise it asks. A question that other calls asked before that time is not enough, however late its
// answer comes.
func (s *Service) current(ctx context.Context) (*snapshot, error) {
	now := s.elapsed()
	if now-time.Duration(s.called.Load()) > calledAgain {
		s.called.Store(int64(now))
	}
	since := max(int64(now-maxStale), s.changed.Load())
	for {
		snap := s.snapshot.Load()
		if snap.confirmed.Load() >= since {
			return snap, nil
		}
		if err := s.ask(ctx); err != nil {
			return nil, err
		}
	}
}

// elapsed returns the monotonic time since the start.
func (s *Service) elapsed() time.Duration { return s.now().Sub(s.start) }

// ask reads the number of changes, and replaces the snapshot if the number has changed. Concurrent callers share one
// query. Errors: Unavailable, and those of ctx.
func (s *Service) ask(ctx context.Context) error {
	answer := s.asking.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
		defer cancel()
		began := s.elapsed()
		n, err := selectChanges(ctx, s.directory)
		if err != nil {
			return nil, unavailable(err)
		}
		old := s.snapshot.Load()
		if old.n == n {
			old.confirmed.Store(int64(began))
			return nil, nil
		}
		s.snapshot.Store(s.newSnapshot(n, began))
		close(old.over)
		return nil, nil
	})
	select {
	case r := <-answer:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Authenticate returns the principal of an API key. Errors: Unauthenticated for a key that is unknown, revoked or has
// expired; PermissionDenied if its tenant is disabled; Unavailable if that cannot be determined; those of ctx.
func (s *Service) Authenticate(ctx context.Context, token string) (*auth.Principal, error) {
	hash := auth.HashKey(token)
	if s.admin != (auth.KeyHash{}) && subtle.ConstantTimeCompare(hash[:], s.admin[:]) == 1 {
		return s.ActFor(ctx, &auth.Principal{ID: adminPrincipal, Scopes: []string{auth.Admin}}, auth.DefaultTenant)
	}
	snap, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	h := snap.keys.known(hash)
	if h == nil {
		// The check is only done here, since it reads a table of 8 KiB, which would be the most expensive part of most calls.
		if err := auth.CheckKey(token); err != nil {
			return nil, err
		}
		if h, err = snap.keys.get(ctx, hash); err != nil {
			return nil, err
		}
	}
	return s.use(h)
}

// use returns the principal of a holder that was looked up, which is nil if there is none. Errors: as Authenticate has them.
func (s *Service) use(h *holder) (*auth.Principal, error) {
	now := s.now() // The lookup may have taken a while.
	switch {
	case h == nil:
		return nil, errs.New(errs.Unauthenticated, "this API key is not known; ask an administrator for one")
	case h.refused != nil:
		return nil, h.refused
	case !h.expires.IsZero() && !now.Before(h.expires):
		return nil, errs.New(errs.Unauthenticated, "this API key has expired; ask an administrator for another")
	}
	s.used.note(h, now)
	return &h.principal, nil
}

// Holder returns a principal by the id that it had when it made something that outlasts the call, acting for the tenant that it acted
// for; an empty id is nobody in particular. It is a principal of an API key only as long as the key is valid. Errors: as Authenticate
// and ActFor have them.
func (s *Service) Holder(ctx context.Context, id, tenant string) (*auth.Principal, error) {
	key, isKey := strings.CutPrefix(id, keyPrincipal)
	if !isKey {
		p := &auth.Principal{ID: id}
		if id == adminPrincipal {
			p.Scopes = []string{auth.Admin}
		}
		return s.ActFor(ctx, p, tenant)
	}
	if uuid.Validate(key) != nil {
		return nil, errs.New(errs.Unauthenticated, "this API key is not known; ask an administrator for one")
	}
	snap, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	h, err := snap.ids.get(ctx, key)
	if err != nil {
		return nil, err
	}
	p, err := s.use(h)
	switch {
	case err != nil:
		return nil, err
	case p.Tenant.Name == tenant:
		return p, nil
	case !p.IsAdmin():
		return nil, errs.New(errs.PermissionDenied, "the API key is not of the tenant %q", tenant)
	}
	return s.ActFor(ctx, p, tenant)
}

func errDisabled(name string) error {
	return errs.New(errs.PermissionDenied, "the tenant %q is disabled; an administrator can enable it again", name)
}

// ActFor returns p acting for the named tenant: the tenant that a JWT names, or the one that an administrator acts for.
// Errors: PermissionDenied if there is no such tenant, and if it is disabled and the principal is not an administrator;
// Unavailable; those of ctx.
func (s *Service) ActFor(ctx context.Context, p *auth.Principal, name string) (*auth.Principal, error) {
	if checkName(name) != nil { // No tenant can have this name, so no lookup is needed.
		return nil, errs.New(errs.PermissionDenied, "the tenant %.64q does not exist", name)
	}
	snap, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	t, err := snap.tenants.get(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case t == nil || t.isDeleted():
		return nil, errs.New(errs.PermissionDenied, "the tenant %q does not exist", name)
	case t.Disabled && !p.IsAdmin():
		return nil, errDisabled(name)
	}
	acting := *p
	acting.Tenant = t.record()
	return &acting, nil
}
