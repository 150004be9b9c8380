package message

import (
	"testing"

	"plinth/internal/broker"
)

// TestTenantHeaderIsFree is about most messages, whose only header is their tenant's: each delivery passes here.
func TestTenantHeaderIsFree(t *testing.T) {
	d := broker.Delivery{Message: broker.Message{Headers: map[string]string{tenantHeader: "default"}}}
	if n := testing.AllocsPerRun(100, func() { fromBroker(d) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	d.Headers = map[string]string{tenantHeader: "default", attemptsHeader: "2", "traceparent": "t"}
	if m := fromBroker(d); len(m.headers) != 1 || m.headers["traceparent"] != "t" || len(d.Headers) != 3 {
		t.Errorf("headers %v of %v", m.headers, d.Headers)
	}
}
