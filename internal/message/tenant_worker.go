package message

import (
	"context"
	"sync/atomic"

	"plinth/internal/auth"
	"plinth/internal/observe"
)

// Tenants returns the active tenants, and a channel that is closed once they have changed.
type Tenants func(ctx context.Context) (active []auth.Tenant, changed <-chan struct{}, err error)

// tenantWorker runs the handlers of a worker for one tenant, with one loop for each handler.
type tenantWorker struct {
	name      string
	principal atomic.Pointer[auth.Principal] // that handlers act as
	stop      context.CancelFunc
	stopped   bool // it takes no more messages, and finishes those it holds
	loops     atomic.Int64
	ended     chan struct{} // closed when the last loop has ended
}

// serveTenants runs the handlers for the active tenants until ctx ends and all loops have ended, and tells the pushes which they are. While
// the active tenants cannot be read, it keeps the last known ones.
func (w *Worker) serveTenants(ctx context.Context) {
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
		w.pushes.setTenants(active)
		if len(w.handlers) > 0 {
			w.updateTenants(ctx, all, active)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// updateTenants starts and stops tenantWorkers so that there is one for each active tenant.
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

// startTenant starts a tenantWorker. If the tenant had one before, its loops begin when those of the former one have
// ended.
func (w *Worker) startTenant(ctx context.Context, tenant auth.Tenant, before *tenantWorker) *tenantWorker {
	t := &tenantWorker{name: tenant.Name, ended: make(chan struct{})}
	t.setTenant(tenant)
	ctx, t.stop = context.WithCancel(auth.With(ctx, t.principal.Load()))
	t.loops.Store(int64(len(w.handlers)))
	for _, h := range w.handlers {
		go func() {
			defer observe.LogPanic(w.service.log)
			defer t.endLoop()
			if before != nil {
				<-before.ended
			}
			w.serve(ctx, h, t)
		}()
	}
	return t
}

// setTenant sets the tenant that the handlers act for, with its current rate and quotas.
func (t *tenantWorker) setTenant(tenant auth.Tenant) {
	t.principal.Store(&auth.Principal{ID: "service", Tenant: tenant, Scopes: []string{auth.All}})
}

// endLoop records the end of a loop.
func (t *tenantWorker) endLoop() {
	if t.loops.Add(-1) == 0 {
		t.stop()
		close(t.ended)
	}
}
