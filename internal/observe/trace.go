package observe

import "context"

type traceKey struct{}

type trace struct{ parent, state string }

// WithTrace gives a context that belongs to a trace: parent and state are the values of W3C's traceparent and tracestate
// (https://www.w3.org/TR/trace-context/), checked by whoever took them in. Without a parent it is ctx.
func WithTrace(ctx context.Context, parent, state string) context.Context {
	if parent == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, trace{parent, state})
}

// Trace gives the trace that ctx belongs to; parent is empty where there is none.
func Trace(ctx context.Context) (parent, state string) {
	t, _ := ctx.Value(traceKey{}).(trace)
	return t.parent, t.state
}
