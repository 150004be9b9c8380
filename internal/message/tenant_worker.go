package message

import (
	"context"
	"sync/atomic"

	"plinth/internal/auth"
)

// Tenants gives the tenants that are active, and a channel that is closed once that has changed.
type Tenants func(ctx context.Context) (active []auth.Tenant, changed <-chan struct{}, err error)

// served is a tenant that a worker serves, with one loop for each handler.
type tenantWorker struct {
	name      string
	principal atomic.Pointer[auth.Principal] // whom handlers act as
	stop      context.CancelFunc
	stopped   bool // takes no more, and finishes what it holds
	loops     atomic.Int64
	ended     chan struct{} // closed when the last loop has ended
}

// follow serves the tenants that are active until ctx ends and all loops have ended. As long as it cannot be known who is,
// the same ones are served as before.
func (w *Worker) serveTenants(ctx context.Context) {
	if len(w.handlers) == 0 {
		return
	}
	all := map[string]*tenantWorker{}
	defer func() {
		for _, t := range all {
			<-t.ended
		}
	}()
	for attempt := 1; ; attempt++ {
		active, changed, err := w.tenants(ctx)
		if err != nil {
			if !w.retry(ctx, "the tenants cannot be read, trying again", attempt, err) {
				return
			}
			continue
		}
		attempt = 0
		w.updateTenants(ctx, all, active)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// update starts and stops tenants so that the active ones are served.
func (w *Worker) updateTenants(ctx context.Context, all map[string]*tenantWorker, active []auth.Tenant) {
	wanted := make(map[string]bool, len(active))
	for _, tenant := range active {
		wanted[tenant.Name] = true
	}
	for name, t := range all {
		if !wanted[name] {
			t.stopped = true
			t.stop()
		}
		select {
		case <-t.ended:
			delete(all, name)
		default:
		}
	}
	for _, tenant := range active {
		t := all[tenant.Name]
		if t == nil || t.stopped {
			t = w.startTenant(ctx, tenant, t)
			all[tenant.Name] = t
			continue
		}
		t.setTenant(tenant)
	}
}

// begin serves a tenant, once the loops of before have ended where it was served before.
func (w *Worker) startTenant(ctx context.Context, tenant auth.Tenant, before *tenantWorker) *tenantWorker {
	t := &tenantWorker{name: tenant.Name, ended: make(chan struct{})}
	t.setTenant(tenant)
	ctx, t.stop = context.WithCancel(auth.With(ctx, t.principal.Load()))
	t.loops.Store(int64(len(w.handlers)))
	for _, h := range w.handlers {
		go func() {
			defer t.endLoop()
			if before != nil {
				<-before.ended
			}
			w.serve(ctx, h, t)
		}()
	}
	return t
}

// set takes over what is allowed to the tenant now.
func (t *tenantWorker) setTenant(tenant auth.Tenant) {
	t.principal.Store(&auth.Principal{ID: "service", Tenant: tenant, Scopes: []string{auth.All}})
}

// leave ends a loop.
func (t *tenantWorker) endLoop() {
	if t.loops.Add(-1) == 0 {
		t.stop()
		close(t.ended)
	}
}
