package file

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"plinth/internal/auth"
	"plinth/internal/observe"
)

// traced is the trace of the call that left work to a worker, as others are told of it.
type traced struct{ parent, state string }

func traceOf(ctx context.Context) (t traced) {
	t.parent, t.state = observe.Trace(ctx)
	return t
}

// startVerifying begins the span of an attempt to verify an upload. It is below the call that completed the upload, also after a
// failure, and in another process.
func (s *Service) startVerifying(ctx context.Context, d Direct) (context.Context, func(error)) {
	ctx, span := s.tracing.Start(observe.WithTrace(ctx, d.trace.parent, d.trace.state), "verify", trace.SpanKindConsumer)
	return ctx, func(err error) {
		if span.Records(err != nil) {
			span.End("verify", observe.Problem(err), attribute.String("plinth.tenant", d.tenant), attribute.String("plinth.file", d.ID))
		}
	}
}

// startWork begins the span of work on a file that no call waits for, such as removing it. It has a trace of its own, since that may be
// much later, linked to the one that left it to do, if that is known.
func (s *Service) startWork(ctx context.Context, name, id string, left traced) (context.Context, func(error)) {
	ctx, span := s.tracing.Start(ctx, name, trace.SpanKindInternal, observe.LinkTo(left.parent, left.state)...)
	return ctx, func(err error) {
		if span.Records(err != nil) {
			span.End(name, observe.Problem(err), attribute.String("plinth.tenant", auth.TenantOf(ctx)), attribute.String("plinth.file", id))
		}
	}
}
