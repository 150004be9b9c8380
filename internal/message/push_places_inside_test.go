package message

import (
	"context"
	"testing"
)

// The places of a tenant are kept for as long as one of its pushes has or wants one.
func TestPlacesOfTenantsAreForgotten(t *testing.T) {
	t.Parallel()
	p := newPushPlaces(4)
	a, b := tenantQueue{"a", QueueName{"q"}}, tenantQueue{"b", QueueName{"q"}}
	for _, q := range []tenantQueue{a, b} {
		if !p.enter(t.Context(), q) {
			t.Fatal("there is no place")
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 4 {
		p.enter(over, a)
	}
	for ; p.tenants["a"].holders > 1; p.leave(a) {
	}
	p.leave(a)
	if len(p.tenants) != 1 {
		t.Errorf("%d tenants", len(p.tenants))
	}
	if p.leave(b); len(p.tenants) != 0 || p.all.Used() != 0 {
		t.Errorf("%d tenants, %d places", len(p.tenants), p.all.Used())
	}
}
