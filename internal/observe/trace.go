package observe

import (
	"context"

	"go.opentelemetry.io/otel/trace"
)

type traceKey struct{}

type carried struct{ parent, state string }

// WithTrace returns a context that belongs to a trace. parent and state are the values of W3C's traceparent and tracestate
// (https://www.w3.org/TR/trace-context/), which the code that received them has checked. Without a parent it returns ctx.
func WithTrace(ctx context.Context, parent, state string) context.Context {
	if parent == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, carried{parent, state})
}

// Trace returns the trace that ctx belongs to, as others are told of it: its innermost span, or else what WithTrace was called
// with. parent is empty if there is none.
func Trace(ctx context.Context) (parent, state string) {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		return "00-" + span.TraceID().String() + "-" + span.SpanID().String() + "-" + span.TraceFlags().String(), span.TraceState().String()
	}
	t, _ := ctx.Value(traceKey{}).(carried)
	return t.parent, t.state
}

// LinkTo returns a link to the trace that the values of traceparent and tracestate name, or none if they name none.
func LinkTo(parent, state string) []trace.Link {
	if to := parseTrace(parent, state); to.IsValid() {
		return []trace.Link{{SpanContext: to}}
	}
	return nil
}
