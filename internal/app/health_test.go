package app

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// backends are two checks whose answers a test sets.
type backends struct{ needed, useful error }

func (b *backends) health() (*health, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.InfoLevel)
	return newHealth(zap.New(core), []check{
		{"postgres", needed, func(context.Context) error { return b.needed }},
		{"redis", useful, func(context.Context) error { return b.useful }},
	}), logs
}

// askAll asks every backend once.
func (h *health) askAll(t *testing.T) {
	for _, s := range h.states {
		_ = h.ask(t.Context(), s)
	}
}

func ask(t *testing.T, handler http.HandlerFunc) (int, healthReply) {
	t.Helper()
	w := httptest.NewRecorder()
	handler(w, httptest.NewRequest("GET", "/", nil))
	var r healthReply
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || time.Since(r.Timestamp) > time.Minute {
		t.Errorf("%s: %v", w.Body, err)
	}
	return w.Code, r
}

func TestHealth(t *testing.T) {
	t.Parallel()
	b := &backends{}
	h, logs := b.health()
	want := func(status int, word, postgres, redis string) {
		t.Helper()
		if code, r := ask(t, h.serveHealth); code != status || r.Status != word || r.Checks["postgres"] != postgres || r.Checks["redis"] != redis {
			t.Errorf("%d %+v", code, r)
		}
		if code, r := ask(t, h.serveReady); code != status || r.Status != word || r.Checks != nil {
			t.Errorf("ready: %d %+v", code, r)
		}
		if code, r := ask(t, h.serveLive); code != 200 || r.Status != "ok" {
			t.Errorf("live: %d %+v", code, r)
		}
	}
	want(503, "unavailable", "unavailable", "unavailable") // Nothing was asked yet.
	h.askAll(t)
	want(503, "unavailable", "ok", "ok") // The queues are not there yet.
	h.prepare()
	want(200, "ok", "ok", "ok")
	b.useful = errors.New("away")
	h.askAll(t)
	want(200, "ok", "ok", "unavailable")
	b.needed = errors.New("password=secret")
	h.askAll(t)
	want(503, "unavailable", "unavailable", "unavailable")
	for _, s := range h.states {
		s.since = s.since.Add(-patience)
	}
	h.askAll(t)
	h.askAll(t)
	if n := logs.FilterMessage("backend is unavailable").Len(); n != 2 {
		t.Errorf("two losses are told %d times", n)
	}
	b.needed, b.useful = nil, nil
	h.askAll(t)
	want(200, "ok", "ok", "ok")
	if n := logs.FilterMessage("backend is available again").Len(); n != 2 {
		t.Errorf("two returns are told %d times", n)
	}
	h.drain()
	want(503, "unavailable", "ok", "ok")
}

func TestHealthOverGRPC(t *testing.T) {
	t.Parallel()
	b := &backends{}
	h, _ := b.health()
	h.services = []string{"a.Service"}
	changes := make(chan struct{}, 10)
	stop, err := h.Watch(t.Context(), nil, func() { changes <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	want := func(status grpchealth.Status) {
		t.Helper()
		for _, service := range []string{"", "a.Service"} {
			if res, err := h.Check(t.Context(), &grpchealth.CheckRequest{Service: service}); err != nil || res.Status != status {
				t.Errorf("%q: %v %v, want %v", service, res, err, status)
			}
		}
	}
	want(grpchealth.StatusNotServing)
	h.prepare()
	h.askAll(t)
	<-changes
	want(grpchealth.StatusServing)
	h.askAll(t) // No change.
	h.drain()
	<-changes
	want(grpchealth.StatusNotServing)
	stop()
	h.drain()
	if len(changes) != 0 {
		t.Error("told of no change, or after the watch")
	}
	if _, err := h.Check(t.Context(), &grpchealth.CheckRequest{Service: "none"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("%v", err)
	}
}
