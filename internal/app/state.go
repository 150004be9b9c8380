package app

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"runtime"
	"time"

	"plinth/internal/observe"
)

// processState is what /debug/state tells of a process.
type processState struct {
	Role       Role           `json:"role"`
	Worker     string         `json:"worker"` // its name in runs
	Build      observe.Build  `json:"build"`
	StartTime  time.Time      `json:"start_time"`
	Ready      bool           `json:"ready"`
	Draining   bool           `json:"draining"`
	Away       []string       `json:"away"` // backends that cannot be used
	Goroutines int            `json:"goroutines"`
	HeapBytes  uint64         `json:"heap_bytes"`
	Domains    map[string]any `json:"domains"` // what each holds, by its name
}

func (a *App) state() processState {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	s := processState{
		Role: a.cfg.Role, Worker: workerName(), Build: observe.ReadBuild(), StartTime: a.started, Away: a.health.away(),
		Goroutines: runtime.NumGoroutine(), HeapBytes: memory.HeapAlloc, Domains: map[string]any{},
	}
	s.Ready, s.Draining = a.health.serving(), a.health.isDraining()
	for _, d := range a.domains {
		if d.state != nil {
			s.Domains[d.name] = d.state()
		}
	}
	return s
}

//go:embed admin.html
var adminPage []byte

// servePage answers with a page that shows the rest. It loads nothing from elsewhere.
func servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
	_, _ = w.Write(adminPage)
}

// serveState answers with what the process holds at the moment.
func (a *App) serveState(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	to := json.NewEncoder(w)
	to.SetIndent("", "  ")
	_ = to.Encode(a.state())
}

// serveTraces answers with the last traces that this process had a part in.
func (a *App) serveTraces(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a.tracing.Recent().Traces())
}

// away returns the names of the backends that cannot be used.
func (h *health) away() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := []string{}
	for _, s := range h.states {
		if s.err != nil {
			names = append(names, s.name)
		}
	}
	return names
}

func (h *health) isDraining() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.draining
}
