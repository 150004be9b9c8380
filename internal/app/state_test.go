package app

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
)

// TestState asks a process what it holds.
func TestState(t *testing.T) {
	t.Parallel()
	a := built(t, Worker)
	reply := httptest.NewRecorder()
	a.serveState(reply, httptest.NewRequest("GET", "/debug/state", nil))
	var got struct {
		Role       string
		Build      struct{ Go, Revision string }
		Ready      bool
		Away       []string
		Goroutines int
		Domains    map[string]map[string]any
	}
	if err := json.Unmarshal(reply.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Role != "worker" || got.Build.Go == "" || got.Ready || len(got.Away) == 0 || got.Goroutines == 0 {
		t.Errorf("%+v", got)
	}
	for domain, fields := range map[string][]string{
		"message": {"subscriptions", "polls"}, "lock": {"waiting"}, "schedule": {"runs"}, "file": {"uploads", "resumable"}, "channel": {"servers", "tenants"},
	} {
		for _, field := range fields {
			if value := got.Domains[domain][field]; value == nil { // A list that is empty is told as such.
				t.Errorf("%s tells no %s: %v", domain, field, got.Domains[domain])
			}
		}
	}
}
