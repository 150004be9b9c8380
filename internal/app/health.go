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
)

// Backends are asked this often, each for this long at the most, whoever asks for the answer and however often.
const (
	checkEvery   = time.Second
	recheckEvery = 200 * time.Millisecond // of one that cannot be used
	checkTimeout = 2 * time.Second
	patience     = time.Second // before the log tells of a loss: a start takes its time, and a blink is no loss
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
	services []string

	mu       sync.Mutex
	states   []*state
	prepared bool
	draining bool
	watchers map[*func()]struct{}
}

// state is what is known of one backend.
type state struct {
	check
	err   error     // why it cannot be used; nil when it can
	since time.Time // since when err is not nil
	told  bool      // its loss is in the log
}

var _ grpchealth.Watcher = (*health)(nil)

func newHealth(log *zap.Logger, checks []check) *health {
	h := &health{log: log, watchers: map[*func()]struct{}{}}
	for _, c := range checks {
		h.states = append(h.states, &state{check: c, err: errors.New("not asked yet"), since: time.Now()})
	}
	return h
}

// run asks the backends until ctx ends, each on its own: a slow one holds up no other.
func (h *health) run(ctx context.Context) error {
	var asking sync.WaitGroup
	for _, s := range h.states {
		asking.Go(func() {
			for again := time.Duration(0); loop.Sleep(ctx, again); {
				again = checkEvery
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
		return nil // The process ends: this says nothing about the backend.
	}
	h.update(func() {
		if err != nil && s.err == nil {
			s.since = time.Now()
		}
		s.err = err
		switch {
		case err != nil && !s.told && time.Since(s.since) > patience:
			s.told = true
			h.log.Warn("backend is unavailable", zap.String("backend", s.name), zap.Error(err))
		case err == nil && s.told:
			s.told = false
			h.log.Info("backend is available again", zap.String("backend", s.name))
		}
	})
	return err
}

// prepare says that the schema and the queues are there: before, the process does not serve.
func (h *health) prepare() { h.update(func() { h.prepared = true }) }

// drain says from now on that the process does not serve.
func (h *health) drain() { h.update(func() { h.draining = true }) }

// update makes a change, and tells the watchers if it changes whether the process serves.
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

// ready says whether the process serves; the caller holds the lock.
func (h *health) ready() bool {
	lost := slices.ContainsFunc(h.states, func(s *state) bool { return s.needed && s.err != nil })
	return h.prepared && !h.draining && !lost
}

func (h *health) serving() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready()
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
	for _, s := range h.states {
		checks[s.name] = "ok"
		if s.err != nil {
			checks[s.name] = "unavailable"
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
