package app

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"go.uber.org/zap"
)

// Backends are asked this often, each for this long at the most, whoever asks for the answer and however often.
const (
	checkEvery   = time.Second
	checkTimeout = 2 * time.Second
)

// A backend is needed when the service cannot serve without it; one that is useful is only told of.
const (
	needed = true
	useful = false
)

// check asks one backend.
type check struct {
	name   string
	needed bool
	ask    func(context.Context) error
}

// health knows whether the process can serve. /health, /readyz and grpc.health.v1 all tell what it knows.
type health struct {
	log      *zap.Logger
	checks   []check
	services []string

	mu       sync.Mutex
	results  map[string]error
	told     map[string]bool // backends whose loss is in the log
	asked    bool
	ready    bool
	draining bool
	watchers map[*func()]struct{}
}

var _ grpchealth.Watcher = (*health)(nil)

func newHealth(log *zap.Logger, checks []check) *health {
	h := &health{log: log, checks: checks, results: map[string]error{}, told: map[string]bool{}, watchers: map[*func()]struct{}{}}
	for _, c := range checks {
		h.results[c.name] = errors.New("not asked yet")
	}
	return h
}

// run asks the backends until ctx ends.
func (h *health) run(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		h.ask(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *health) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	errs := make([]error, len(h.checks))
	var asking sync.WaitGroup
	for i, c := range h.checks {
		asking.Go(func() { errs[i] = c.ask(ctx) })
	}
	asking.Wait()
	if errors.Is(ctx.Err(), context.Canceled) {
		return // The process ends: this says nothing about the backends.
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	ready := true
	for i, c := range h.checks {
		failing := h.asked && h.results[c.name] != nil && errs[i] != nil // Twice in a row: one may be the start, or a blink.
		h.results[c.name] = errs[i]
		ready = ready && (errs[i] == nil || !c.needed)
		switch {
		case failing && !h.told[c.name]:
			h.told[c.name] = true
			h.log.Warn("backend is unavailable", zap.String("backend", c.name), zap.Error(errs[i]))
		case errs[i] == nil && h.told[c.name]:
			h.told[c.name] = false
			h.log.Info("backend is available again", zap.String("backend", c.name))
		}
	}
	h.asked = true
	if ready != h.ready {
		h.ready = ready
		h.changed()
	}
}

// drainNow says from now on that the process does not serve.
func (h *health) drainNow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
	h.changed()
}

// changed tells the watchers; the caller holds the lock.
func (h *health) changed() {
	for onChange := range h.watchers {
		(*onChange)()
	}
}

func (h *health) serving() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready && !h.draining
}

// Check answers grpc.health.v1.Health/Check, for the process or for one of its services.
func (h *health) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if req.Service != "" && !slices.Contains(h.services, req.Service) {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such service: "+req.Service))
	}
	if h.serving() {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
}

// Watch answers grpc.health.v1.Health/Watch.
func (h *health) Watch(_ context.Context, _ *grpchealth.CheckRequest, onChange func()) (func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[&onChange] = struct{}{}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, &onChange)
	}, nil
}

type healthReply struct {
	Status    string            `json:"status"`
	Timestamp time.Time         `json:"timestamp"`
	Checks    map[string]string `json:"checks,omitempty"`
}

// serveHealth tells of every backend. What is wrong with one stands in the log, not in the reply.
func (h *health) serveHealth(w http.ResponseWriter, _ *http.Request) {
	checks := map[string]string{}
	h.mu.Lock()
	for name, err := range h.results {
		checks[name] = "ok"
		if err != nil {
			checks[name] = "unavailable"
		}
	}
	h.mu.Unlock()
	h.reply(w, h.serving(), checks)
}

func (h *health) serveReady(w http.ResponseWriter, _ *http.Request) { h.reply(w, h.serving(), nil) }

func (h *health) serveLive(w http.ResponseWriter, _ *http.Request) { h.reply(w, true, nil) }

func (h *health) reply(w http.ResponseWriter, ok bool, checks map[string]string) {
	r := healthReply{Status: "ok", Timestamp: time.Now().UTC(), Checks: checks}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !ok {
		r.Status = "unavailable"
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r)
}

// checkPostgres wants the database and the schema that this binary knows, or a newer one.
func (a *App) checkPostgres(ctx context.Context) error {
	current, err := a.db.SchemaCurrent(ctx)
	if err == nil && !current {
		err = errors.New("the schema is not migrated yet")
	}
	return err
}
