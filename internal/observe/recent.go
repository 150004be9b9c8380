package observe

import (
	"context"
	"sync"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
)

const (
	recentTraces = 200
	recentSpans  = 60 // of one trace
)

// Recent keeps the last traces in memory, in the order in which their first spans ended. It is a span processor.
type Recent struct {
	mu    sync.Mutex
	byID  map[string]*RecentTrace
	order []*RecentTrace // oldest first
}

// RecentTrace is what this process saw of a trace.
type RecentTrace struct {
	ID    string       `json:"id"`
	Spans []RecentSpan `json:"spans"`
}

// RecentSpan is a span that has ended.
type RecentSpan struct {
	ID         string            `json:"id"`
	Parent     string            `json:"parent,omitempty"`
	Name       string            `json:"name"`
	Kind       string            `json:"kind"`
	StartTime  time.Time         `json:"start_time"`
	Millis     float64           `json:"duration_ms"`
	Problem    string            `json:"problem,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

func newRecent() *Recent { return &Recent{byID: map[string]*RecentTrace{}} }

// OnStart implements sdk.SpanProcessor.
func (*Recent) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd implements sdk.SpanProcessor.
func (r *Recent) OnEnd(s sdk.ReadOnlySpan) {
	span := RecentSpan{
		ID: s.SpanContext().SpanID().String(), Name: s.Name(), Kind: s.SpanKind().String(), StartTime: s.StartTime().UTC(),
		Millis: float64(s.EndTime().Sub(s.StartTime()).Microseconds()) / 1000, Problem: s.Status().Description, Attributes: map[string]string{},
	}
	if s.Parent().IsValid() {
		span.Parent = s.Parent().SpanID().String()
	}
	for _, a := range s.Attributes() {
		span.Attributes[string(a.Key)] = a.Value.String()
	}
	id := s.SpanContext().TraceID().String()
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.byID[id]
	if of == nil {
		if len(r.order) == recentTraces {
			delete(r.byID, r.order[0].ID)
			copy(r.order, r.order[1:])
			r.order = r.order[:recentTraces-1]
		}
		of = &RecentTrace{ID: id}
		r.byID[id], r.order = of, append(r.order, of)
	}
	if len(of.Spans) < recentSpans {
		of.Spans = append(of.Spans, span)
	}
}

// Shutdown implements sdk.SpanProcessor.
func (*Recent) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdk.SpanProcessor.
func (*Recent) ForceFlush(context.Context) error { return nil }

// Traces returns the last traces, the newest first.
func (r *Recent) Traces() []RecentTrace {
	if r == nil {
		return []RecentTrace{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]RecentTrace, 0, len(r.order))
	for i := len(r.order) - 1; i >= 0; i-- {
		t := *r.order[i]
		t.Spans = append([]RecentSpan(nil), t.Spans...)
		all = append(all, t)
	}
	return all
}
