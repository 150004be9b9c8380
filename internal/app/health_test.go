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

// backends are two checks whose results a test sets.
type backends struct{ needed, useful error }

func (b *backends) health() (*health, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.InfoLevel)
	return newHealth(zap.New(core), checkEvery, []check{
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

func ask(t *testing.T, serve func(http.ResponseWriter, *http.Request) error) (int, healthReply) {
	t.Helper()
	w := httptest.NewRecorder()
	if err := serve(w, httptest.NewRequest("GET", "/", nil)); err != nil {
		t.Error(err)
	}
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
	want(503, "unavailable", "unavailable", "unavailable") // Nothing was checked yet.
	h.askAll(t)
	want(503, "unavailable", "ok", "ok") // The queues do not exist yet.
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
	if res, err := (watched{h}).Check(t.Context(), &grpchealth.CheckRequest{Service: "none"}); err != nil || res.Status != 3 {
		t.Errorf("who watches an unknown service is told %v, %v, want SERVICE_UNKNOWN", res, err)
	}
	if res, err := (watched{h}).Check(t.Context(), &grpchealth.CheckRequest{Service: "a.Service"}); err != nil || res.Status != grpchealth.StatusNotServing {
		t.Errorf("who watches a service is told %v, %v", res, err)
	}
	if _, err := h.Check(t.Context(), &grpchealth.CheckRequest{Service: "none"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("%v", err)
	}
}

// Who watches a service that is not known, and may be later, is told so, and the stream stays open.
func TestWatchOfAnUnknownService(t *testing.T) {
	t.Parallel()
	h, _ := (&backends{}).health()
	_, handler := h.handler()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	client := grpchealth.NewClient(server.Client(), server.URL)
	events := client.Watch(ctx, &grpchealth.CheckRequest{Service: "none"})
	if event := <-events; event.Err != nil || event.Response.Status != 3 {
		t.Fatalf("%+v, want SERVICE_UNKNOWN", event)
	}
	if res, err := client.Check(ctx, &grpchealth.CheckRequest{}); err != nil || res.Status != grpchealth.StatusNotServing {
		t.Errorf("%v, %v", res, err)
	}
	select {
	case event, open := <-events:
		t.Errorf("the stream goes on with %+v, open %t", event, open)
	default:
	}
}
