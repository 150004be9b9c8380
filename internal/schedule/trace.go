package schedule

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"plinth/internal/observe"
)

// traceTick begins the span of a tick. What it makes has traces of its own, which are linked to it: the schedules of a tick, of
// all tenants, have nothing in common but the time.
func (s *Service) traceTick(ctx context.Context) (context.Context, func(fired int, err error)) {
	ctx, span := s.tracing.Start(ctx, "tick", trace.SpanKindInternal)
	return ctx, func(fired int, err error) {
		if span.Records(err != nil) {
			span.End("tick", observe.Problem(err), attribute.Int("plinth.schedules", fired))
		}
	}
}

// traceRun begins the span of an attempt of a run.
func (s *Service) traceRun(ctx context.Context, r *Run) (context.Context, func(error)) {
	ctx, span := s.tracing.Start(ctx, "run", trace.SpanKindInternal)
	return ctx, func(err error) {
		if span.Records(err != nil) {
			span.End("run", observe.Problem(err), attribute.String("plinth.tenant", r.tenant), attribute.String("plinth.schedule", r.Schedule.name),
				attribute.String("plinth.run", r.ID), attribute.Int("plinth.attempt", r.Attempt))
		}
	}
}

// traceOwn begins the span of one of the service's own jobs.
func (s *Service) traceOwn(ctx context.Context, job string) (context.Context, func(error)) {
	ctx, span := s.tracing.Start(ctx, "job", trace.SpanKindInternal)
	return ctx, func(err error) {
		if span.Records(err != nil) {
			span.End("job", observe.Problem(err), attribute.String("plinth.job", job))
		}
	}
}
