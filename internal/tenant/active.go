package tenant

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"plinth/internal/auth"
)

// actives are the tenants that are neither disabled nor being deleted, as of a number of changes. What changes is read, and not all
// tenants for each change of a tenant or a key.
type actives struct {
	mu    sync.Mutex
	since int64 // -1 before the first read
	all   map[string]auth.Tenant
}

// Active returns the tenants that are neither disabled nor being deleted. changed is closed when the list may have
// changed, within a second of that while Run is running. Errors: Unavailable.
func (s *Service) Active(ctx context.Context) (active []auth.Tenant, changed <-chan struct{}, err error) {
	snap, err := s.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	a := &s.actives
	a.mu.Lock()
	defer a.mu.Unlock()
	if snap.n < a.since { // The database may be an earlier one, from a backup.
		a.since = -1
	}
	if a.since < snap.n {
		if err := s.readActives(ctx); err != nil {
			return nil, nil, err
		}
	}
	for _, t := range a.all {
		active = append(active, t)
	}
	slices.SortFunc(active, func(a, b auth.Tenant) int { return cmp.Compare(a.Name, b.Name) })
	return active, snap.over, nil
}

// readActives reads what has changed. The caller must hold s.actives.mu.
func (s *Service) readActives(ctx context.Context) error {
	a := &s.actives
	tenants, all, n, err := selectChanged(ctx, s.system, a.since)
	if err != nil {
		return err
	}
	if all {
		a.all = make(map[string]auth.Tenant, len(tenants))
	}
	for _, t := range tenants {
		if t.Disabled || t.isDeleted() {
			delete(a.all, t.Name)
		} else {
			a.all[t.Name] = t.record()
		}
	}
	a.since = n
	return nil
}
