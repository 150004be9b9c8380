package schedule_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/schedule"
)

// request is a definition that sends an HTTP request, and does not fire while a test runs.
func request(url string) schedule.Definition {
	return schedule.Definition{
		Timing: schedule.Timing{Interval: 24 * time.Hour},
		Action: schedule.Action{HTTP: &schedule.HTTP{URL: url, Headers: map[string]string{"Authorization": "secret"}, Body: "run {{run_id}}", Secret: "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}},
	}
}

// A request has the run's id and a signature, and its answer is kept; one that fails for a while is tried again.
func TestHTTP(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	ids := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		ids <- r.Method + " " + r.Header.Get("webhook-id") + " " + string(body)
		if r.Header.Get("Authorization") != "secret" || !strings.HasPrefix(r.Header.Get("webhook-signature"), "v1,") {
			t.Errorf("headers are %v", r.Header)
		}
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 5000))
	}))
	t.Cleanup(server.Close)
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	p.work(t)
	d := request(server.URL)
	d.Retry = schedule.Retry{MaxAttempts: 2, MinBackoff: 100 * time.Millisecond}
	p.create(t, ctx, "s", d)
	r := p.trigger(t, ctx, "s")
	r = p.becomes(t, ctx, "s", r.ID, schedule.Succeeded)
	if r.Attempt != 2 || r.HTTP == nil || r.HTTP.Status != 200 || len(r.HTTP.Body) != 4<<10 {
		t.Errorf("the run is %+v", r)
	}
	for range 2 {
		if got := <-ids; got != "POST "+r.ID+" run "+r.ID {
			t.Errorf("asked was %q for the run %s", got, r.ID)
		}
	}
}

// A redirect is an answer like any other and leads nowhere, and addresses that are not public are refused when they are dialed.
func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	var followed atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	t.Cleanup(target.Close)
	server := httptest.NewServer(http.RedirectHandler(target.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	p.work(t)
	p.create(t, ctx, "redirect", request(server.URL))
	r := p.trigger(t, ctx, "redirect")
	r = p.becomes(t, ctx, "redirect", r.ID, schedule.Failed)
	if followed.Load() != 0 || r.HTTP == nil || r.HTTP.Status != http.StatusTemporaryRedirect {
		t.Errorf("followed %d times: %+v", followed.Load(), r)
	}
	for _, url := range []string{"http://10.0.0.1/", "http://[::ffff:169.254.169.254]/", "http://192.168.1.1/", "ftp://example.com/", "no url"} {
		_, err := p.Create(ctx, parse(t, "refused"), request(url))
		if err == nil || !strings.Contains(err.Error(), "http.url") || !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", url, err)
		}
	}
}
