package app

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"plinth/internal/observe"
)

// built returns the service, whose backends do not exist.
func built(t *testing.T, role Role) *App {
	t.Helper()
	cfg, err := ParseConfig(role, valid())
	if err != nil {
		t.Fatal(err)
	}
	logs, err := observe.NewLogs(observe.LogConfig{Level: "error", Format: "json", File: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(logs.Close)
	a, err := build(context.Background(), cfg, logs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a
}

// maxSeries is the most series that calls to paths and by protocols that a client makes up may add: those of one method.
const maxSeries = 50

// TestMetrics compares the page with what is registered, calls what a client may make up, and scrapes: every name is in the
// page, and the number of series does not follow from the number of names that clients use.
func TestMetrics(t *testing.T) {
	t.Parallel()
	a := built(t, Server)
	const page = "../../docs/metrics.md"
	if *update {
		if err := os.WriteFile(page, []byte(a.metricsPage()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(page)
	if err != nil || string(text) != a.metricsPage() {
		t.Errorf("docs/metrics.md is not current (%v): go test ./internal/app -run TestMetrics -update", err)
	}
	before := series(t, a)
	for i := range 200 {
		n := strconv.Itoa(i)
		for _, r := range []*http.Request{
			httptest.NewRequest("GET", "/"+n, nil), httptest.NewRequest("GET", "/api/v1/"+n, nil), httptest.NewRequest("M"+n, "/", nil),
			httptest.NewRequest("POST", "/plinth.message.v1.MessageService/"+n, nil),
		} {
			r.Header.Set("Content-Type", "application/"+n)
			r.Header.Set("X-Tenant", n)
			a.handler.ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	if after := series(t, a); after == before || after > before+maxSeries {
		t.Errorf("%d series before the calls, and %d after them", before, after)
	}
	families, err := a.metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if name := f.GetName(); strings.HasPrefix(name, "plinth_") && !strings.Contains(string(text), "| `"+name+"` |") {
			t.Errorf("%s is not in docs/metrics.md", name)
		}
	}
}

// series returns the number of samples of a scrape.
func series(t *testing.T, a *App) (n int) {
	t.Helper()
	reply := httptest.NewRecorder()
	request := httptest.NewRequest("GET", "/metrics", nil)
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	a.metrics.Handler().ServeHTTP(reply, request)
	body := reply.Body.String()
	if reply.Code != http.StatusOK || !strings.HasSuffix(body, "# EOF\n") {
		t.Fatalf("%d: no OpenMetrics: %.300s", reply.Code, body)
	}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "plinth_") {
			n++
		}
	}
	return n
}
