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

	"plinth/internal/loop"
	"plinth/internal/observe"
)

// Backends are checked this often, and each check takes at most this long. It does not matter how often clients ask for the
// result.
const (
	checkEvery   = time.Second
	unaskedEvery = 3 * time.Second        // in a process without a port, where the result is for the log alone
	recheckEvery = 200 * time.Millisecond // while a backend cannot be used
	checkTimeout = 2 * time.Second
	patience     = time.Second // how long a backend may be lost, or starting, before it is logged
)

// A backend is needed if the service cannot serve without it. One that is only useful is reported, but does not affect
// readiness.
const (
	needed = true
	useful = false
)

// check is the health check of one backend.
type check struct {
	name   string
	needed bool
	ask    func(context.Context) error
}

// health tracks whether the process can serve. /health, /readyz and grpc.health.v1 all report its state.
type health struct {
	log      *zap.Logger
	every    time.Duration
	services []string

	mu       sync.Mutex
	states   []*state
	prepared bool
	draining bool
	watchers map[*func()]struct{}
}

// state is the state of one backend.
type state struct {
	check
	err    error     // why it cannot be used; nil if it can
	since  time.Time // when err was last set after nil
	logged bool      // whether its loss was logged
}

var _ grpchealth.Watcher = watched{}

func newHealth(log *zap.Logger, every time.Duration, checks []check) *health {
	h := &health{log: log, every: every, watchers: map[*func()]struct{}{}}
	for _, c := range checks {
		h.states = append(h.states, &state{check: c, err: errors.New("not asked yet"), since: time.Now()})
	}
	return h
}

// run checks the backends until ctx ends. Each has a loop of its own, so that a slow one does not hold up the others.
func (h *health) run(ctx context.Context) error {
	var asking sync.WaitGroup
	for _, s := range h.states {
		asking.Go(func() {
			defer observe.LogPanic(h.log)
			for again := time.Duration(0); loop.Sleep(ctx, again); {
				again = h.every
				if h.ask(ctx, s) != nil {
					again = recheckEvery
				}
			}
		})
	}
	asking.Wait()
	return nil
}

func (h *health) ask(ctx context.Context, s *state) error {
	asking, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := s.check.ask(asking)
	if ctx.Err() != nil {
		return nil // The process is ending: err says nothing about the backend.
	}
	h.update(func() {
		if err != nil && s.err == nil {
			s.since = time.Now()
		}
		s.err = err
		switch {
		case err != nil && !s.logged && time.Since(s.since) > patience:
			s.logged = true
			h.log.Warn("backend is unavailable", zap.String("backend", s.name), zap.Error(err))
		case err == nil && s.logged:
			s.logged = false
			h.log.Info("backend is available again", zap.String("backend", s.name))
		}
	})
	return err
}

// prepare records that the schema and the queues exist. Until then the process is not ready.
func (h *health) prepare() { h.update(func() { h.prepared = true }) }

// drain makes the process not ready from now on.
func (h *health) drain() { h.update(func() { h.draining = true }) }

// update applies a change, and notifies the watchers if that changes whether the process is ready.
func (h *health) update(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.ready()
	change()
	if h.ready() != before {
		for onChange := range h.watchers {
			(*onChange)()
		}
	}
}

// ready reports whether the process can serve; the caller holds the lock.
func (h *health) ready() bool {
	lost := slices.ContainsFunc(h.states, func(s *state) bool { return s.needed && s.err != nil })
	return h.prepared && !h.draining && !lost
}

func (h *health) serving() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready()
}

// Check implements grpc.health.v1.Health/Check, for the process or for one of its services.
func (h *health) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if req.Service != "" && !slices.Contains(h.services, req.Service) {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such service: "+req.Service))
	}
	if h.serving() {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
}

// Watch implements grpchealth.Watcher.
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

// watched is the health that Health/Watch reports. The protocol wants a service that is not known, as opposed to Check, to have
// a status of its own: it may be known later, so the stream stays open.
type watched struct{ *health }

func (w watched) Check(ctx context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if res, err := w.health.Check(ctx, req); connect.CodeOf(err) != connect.CodeNotFound {
		return res, err
	}
	const serviceUnknown = 3 // the library has no name for it
	return &grpchealth.CheckResponse{Status: serviceUnknown}, nil
}

// handler returns the handler of grpc.health.v1.Health.
func (h *health) handler(options ...connect.HandlerOption) (string, http.Handler) {
	path, checking := grpchealth.NewHandler(h, options...)
	_, watching := grpchealth.NewHandler(watched{h}, options...)
	mux := http.NewServeMux()
	mux.Handle(path, checking)
	mux.Handle(path+"Watch", watching)
	return path, mux
}

type healthReply struct {
	Status    string            `json:"status"`
	Timestamp time.Time         `json:"timestamp"`
	Checks    map[string]string `json:"checks,omitempty"`
	Build     *observe.Build    `json:"build,omitempty"`
}

// serveHealth reports the state of every backend. The cause of a failure is in the log, not in the reply.
func (h *health) serveHealth(w http.ResponseWriter, _ *http.Request) error {
	checks := map[string]string{}
	h.mu.Lock()
	for _, s := range h.states {
		checks[s.name] = "ok"
		if s.err != nil {
			checks[s.name] = "unavailable"
		}
	}
	h.mu.Unlock()
	build := observe.ReadBuild()
	return h.reply(w, h.serving(), healthReply{Checks: checks, Build: &build})
}

func (h *health) serveReady(w http.ResponseWriter, _ *http.Request) error {
	return h.reply(w, h.serving(), healthReply{})
}

func (h *health) serveLive(w http.ResponseWriter, _ *http.Request) error {
	return h.reply(w, true, healthReply{})
}

func (h *health) reply(w http.ResponseWriter, ok bool, r healthReply) error {
	r.Status, r.Timestamp = "ok", time.Now().UTC()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !ok {
		r.Status = "unavailable"
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return json.NewEncoder(w).Encode(r)
}
