package observe

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name of what makes the spans.
const scope = "plinth"

// Tracing makes the spans that traces begin with in this process: of calls, of messages, of runs. Steps are the spans below
// them. A nil Tracing makes none.
type Tracing struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sampler  sampler
	recent   *Recent
}

// sampler decides at the head of a trace whether it is recorded.
type sampler struct {
	byParent bool   // the caller's decision holds, where there is one
	below    uint64 // of 2^63: else the lower part of the trace id decides
}

func (s sampler) samples(parent trace.SpanContext, id trace.TraceID) bool {
	if s.byParent && parent.IsValid() {
		return parent.IsSampled()
	}
	return binary.BigEndian.Uint64(id[8:])>>1 < s.below
}

// newSampler returns the sampler of one of OpenTelemetry's names. Errors: an unknown name.
func newSampler(name string, ratio float64) (s sampler, known bool) {
	switch name {
	case "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio":
		s.byParent = true
	case "always_on", "always_off", "traceidratio":
	default:
		return s, false
	}
	switch name {
	case "always_on", "parentbased_always_on":
		s.below = math.MaxUint64
	case "traceidratio", "parentbased_traceidratio":
		s.below = uint64(ratio * (1 << 63))
	}
	return s, true
}

// Span is the first span of a trace in this process. A nil Span is none. It belongs to one goroutine.
type Span struct {
	tracing *Tracing
	span    trace.Span // nil if the trace is not recorded
	context context.Context
	self    trace.SpanContext
	kind    trace.SpanKind
	start   time.Time
	links   []trace.Link
}

// ids are those of the next span, where they were decided before.
type ids struct{ self trace.SpanContext }

type idsKey struct{}

// generator makes the ids of spans. They only tell spans apart, so they need no cryptographic randomness.
type generator struct{}

func (generator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if of, ok := ctx.Value(idsKey{}).(ids); ok {
		return of.self.TraceID(), of.self.SpanID()
	}
	return newTraceID(), newSpanID()
}

func (generator) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if of, ok := ctx.Value(idsKey{}).(ids); ok {
		return of.self.SpanID()
	}
	return newSpanID()
}

func newTraceID() (id trace.TraceID) {
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()|1) // never zero
	return id
}

func newSpanID() (id trace.SpanID) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}

// Start begins a span. Its parent is the trace that WithTrace has put into ctx; without one it begins a trace. A trace that is
// not recorded costs its ids, which the log has and others are told.
func (t *Tracing) Start(ctx context.Context, name string, kind trace.SpanKind, links ...trace.Link) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	parent := remote(ctx)
	s := &Span{tracing: t, kind: kind, start: time.Now(), links: links}
	id := parent.TraceID()
	if !parent.IsValid() {
		id = newTraceID()
	}
	s.self = trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: newSpanID(), TraceState: parent.TraceState()})
	s.context = trace.ContextWithRemoteSpanContext(ctx, parent) // Also where there is none: ctx may have one of another trace.
	if !t.sampler.samples(parent, id) {
		return trace.ContextWithSpanContext(ctx, s.self), s
	}
	s.begin(name)
	s.self = s.span.SpanContext()
	return trace.ContextWithSpan(ctx, s.span), s
}

func (s *Span) begin(name string) {
	_, s.span = s.tracing.tracer.Start(context.WithValue(s.context, idsKey{}, ids{s.self}), name,
		trace.WithSpanKind(s.kind), trace.WithTimestamp(s.start), trace.WithLinks(s.links...))
}

// TraceID returns the id of the trace, or "" for a nil Span.
func (s *Span) TraceID() string {
	if s == nil {
		return ""
	}
	return s.self.TraceID().String()
}

// Sampled returns the id of the trace if it is recorded, else "".
func (s *Span) Sampled() string {
	if s == nil || s.span == nil {
		return ""
	}
	return s.TraceID()
}

// Records reports whether the span will be exported, so that its attributes are worth computing, once it is known whether
// it failed. A trace that is not recorded has at least its first span if that fails.
func (s *Span) Records(failed bool) bool { return s != nil && (s.span != nil || failed) }

// End ends the span. problem is the kind of the error that it failed with, never its text; "" is success.
func (s *Span) End(name, problem string, attributes ...attribute.KeyValue) {
	if !s.Records(problem != "") {
		return
	}
	if s.span == nil {
		s.begin(name)
	}
	s.span.SetName(name)
	s.span.SetAttributes(attributes...)
	if problem != "" {
		s.span.SetStatus(codes.Error, problem)
		s.span.SetAttributes(attribute.String("error.type", problem))
	}
	s.span.End()
}

// remote returns the trace that WithTrace has put into ctx.
func remote(ctx context.Context) trace.SpanContext {
	t, _ := ctx.Value(traceKey{}).(carried)
	return parseTrace(t.parent, t.state)
}

// parseTrace returns the context of a valid traceparent.
func parseTrace(parent, state string) trace.SpanContext {
	if len(parent) < 55 {
		return trace.SpanContext{}
	}
	id, errID := trace.TraceIDFromHex(parent[3:35])
	span, errSpan := trace.SpanIDFromHex(parent[36:52])
	if errID != nil || errSpan != nil {
		return trace.SpanContext{}
	}
	kept, _ := trace.ParseTraceState(state) // One that does not parse is dropped.
	flags := trace.TraceFlags(0).WithSampled((parent[54]-'0')&1 == 1)
	if parent[54] >= 'a' {
		flags = trace.TraceFlags(0).WithSampled((parent[54]-'a')&1 == 1)
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: flags, TraceState: kept, Remote: true})
}
