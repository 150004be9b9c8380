package tenant

import (
	"context"
	"crypto/subtle"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

const (
	channel = "plinth_tenants"
	changed = "changed" // the payload of notifications that tenants or keys have changed

	// Changes are asked for this often while calls come, so that these find the answer, and else slowly, for notifications that
	// did not come.
	followEvery = 250 * time.Millisecond
	followIdle  = 5 * time.Second
	// busyFor is how long after a call more are expected.
	busyFor = 2 * time.Second
	// calledAgain is how exactly it is known when a call came: each would write what all read.
	calledAgain = 100 * time.Millisecond
	// maxStale is how long an answer is relied on, counted from before the question. With the time that a call takes to come
	// this far it stays below the second that is promised.
	maxStale = 900 * time.Millisecond
)

// snapshot is what was looked up while the number of changes was n. It is thrown away as a whole.
type snapshot struct {
	n         int64
	confirmed atomic.Int64 // when n was the number for certain, as Service.elapsed has it
	keys      *cache[auth.KeyHash, holder]
	tenants   *cache[string, Tenant]
	over      chan struct{} // closed when it is thrown away
}

func (s *Service) newSnapshot(n int64, confirmed time.Duration) *snapshot {
	common := &common{tenants: map[string]auth.Tenant{}, scopes: map[string][]string{}}
	holders := func(ctx context.Context, hashes []auth.KeyHash) (map[auth.KeyHash]*holder, error) {
		return s.holders(ctx, hashes, common)
	}
	snap := &snapshot{n: n, keys: newCache(s.now, holders), tenants: newCache(s.now, s.named), over: make(chan struct{})}
	snap.confirmed.Store(int64(confirmed))
	return snap
}

// holder is who has a key.
type holder struct {
	principal auth.Principal
	expires   time.Time    // zero is never
	refused   error        // why it is not let in
	usedAt    atomic.Int64 // in Unix nanoseconds, as it was noted last
	slot      atomic.Value // for the rate limiter
}

const keyPrincipal = "key:"

// id is that of the key.
func (h *holder) id() string { return h.principal.ID[len(keyPrincipal):] }

// common is what keys of one snapshot have in common. It is there once, for the sake of the garbage collector, which would
// look at a copy for each key.
type common struct {
	tenants map[string]auth.Tenant
	scopes  map[string][]string // by their words
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

// holders finds who has keys, one question at a time, so that common needs no lock. A key that is made later is found at once
// all the same: nobody can have asked for it before.
func (s *Service) holders(ctx context.Context, hashes []auth.KeyHash, common *common) (map[auth.KeyHash]*holder, error) {
	found, err := selectHolders(ctx, s.directory, hashes)
	if err != nil {
		return nil, err
	}
	holders := make(map[auth.KeyHash]*holder, len(found))
	for hash, f := range found {
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
		holders[hash] = h
	}
	return holders, nil
}

func (s *Service) named(ctx context.Context, names []string) (map[string]*Tenant, error) {
	return selectNamed(ctx, s.directory, names)
}

// follow asks for changes until ctx ends: at once when it hears of one.
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
		if failures == 2 && ctx.Err() == nil { // At the start, the schema may be a moment away.
			s.log.Warn("changes of tenants and keys cannot be read; calls are refused while that lasts", zap.Error(err))
		}
	}
}

// current gives the snapshot, if it was the latest a moment ago, and after the last change that this process made. Else it
// asks. A question that others asked before that moment is not enough, however late its answer comes.
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

// elapsed is the monotonic time since the start.
func (s *Service) elapsed() time.Duration { return s.now().Sub(s.start) }

// ask reads the number of changes, one question at a time for all who ask, and throws the snapshot away if it is another.
// Errors: Unavailable, and those of ctx.
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

// Authenticate tells who has an API key. Errors: Unauthenticated for one that is unknown, revoked or has expired;
// PermissionDenied where its tenant is disabled; Unavailable where that cannot be told; those of ctx.
func (s *Service) Authenticate(ctx context.Context, token string) (*auth.Principal, error) {
	hash := auth.HashKey(token)
	if s.admin != (auth.KeyHash{}) && subtle.ConstantTimeCompare(hash[:], s.admin[:]) == 1 {
		return s.ActFor(ctx, &auth.Principal{ID: "admin", Scopes: []string{auth.Admin}}, auth.DefaultTenant)
	}
	snap, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	h := snap.keys.known(hash)
	if h == nil {
		// Only now, since it reads a table of 8 KiB, which would be the dearest part of most calls.
		if err := auth.CheckKey(token); err != nil {
			return nil, err
		}
		if h, err = snap.keys.get(ctx, hash); err != nil {
			return nil, err
		}
	}
	now := s.now() // Looking it up may have taken a while.
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

func errDisabled(name string) error {
	return errs.New(errs.PermissionDenied, "the tenant %q is disabled; an administrator can enable it again", name)
}

// ActFor gives a principal the tenant of a name: that which a JWT names, or the one that an administrator acts for. Errors:
// PermissionDenied where there is none, and where it is disabled and the principal is no administrator; Unavailable; those of ctx.
func (s *Service) ActFor(ctx context.Context, p *auth.Principal, name string) (*auth.Principal, error) {
	if checkName(name) != nil { // Nobody's: it is not worth a question.
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

// Active lists the tenants that are neither disabled nor being deleted. changed is closed when it may be another list, which is within a second where
// Run runs. Errors: Unavailable.
func (s *Service) Active(ctx context.Context) (active []auth.Tenant, changed <-chan struct{}, err error) {
	snap, err := s.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	all, err := selectTenants(ctx, s.system, "", 0)
	if err != nil {
		return nil, nil, err
	}
	for _, t := range all {
		if !t.Disabled && !t.isDeleted() {
			active = append(active, t.record())
		}
	}
	return active, snap.over, nil
}
