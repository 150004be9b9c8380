package observe

import "context"

type traceKey struct{}

type trace struct{ parent, state string }

// WithTrace returns a context that belongs to a trace. parent and state are the values of W3C's traceparent and tracestate
// (https://www.w3.org/TR/trace-context/), which the code that received them has checked. Without a parent it returns ctx.
func WithTrace(ctx context.Context, parent, state string) context.Context {
	if parent == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, trace{parent, state})
}

// Trace returns the trace that ctx belongs to; parent is empty if there is none.
func Trace(ctx context.Context) (parent, state string) {
	t, _ := ctx.Value(traceKey{}).(trace)
	return t.parent, t.state
}
