package message

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"plinth/internal/observe"
)

// A message belongs to the trace of who published it, whichever way it takes: each attempt of a handler is a span below that of
// the publisher, also after a retry and a redrive, since the headers stay with the message.

// startProcessing begins the span of an attempt of a handler.
func (s *Service) startProcessing(ctx context.Context, m Message) (context.Context, *observe.Span) {
	if s.tracing == nil {
		return ctx, nil
	}
	return s.tracing.Start(observe.WithTrace(ctx, m.headers[traceParentHeader], m.headers[traceStateHeader]), "process", trace.SpanKindConsumer)
}

func endProcessing(span *observe.Span, queue tenantQueue, m Message, err error) {
	if !span.Records(err != nil) {
		return
	}
	span.End("process "+queue.queue.name, observe.Problem(err),
		attribute.String("messaging.operation.name", "process"), attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", queue.queue.name), attribute.String("messaging.message.id", m.ID),
		attribute.Int("plinth.attempt", m.Attempt), attribute.String("plinth.tenant", queue.tenant))
}

// startRelaying begins a span for each message that has a trace and is sent from the waiting table, and returns what ends them.
func (s *Service) startRelaying(ctx context.Context, batch []*envelope) (end func([]error)) {
	if s.tracing == nil {
		return func([]error) {}
	}
	spans := make([]*observe.Span, len(batch))
	for i, m := range batch {
		if parent := m.headers[traceParentHeader]; parent != "" {
			_, spans[i] = s.tracing.Start(observe.WithTrace(ctx, parent, m.headers[traceStateHeader]), "relay", trace.SpanKindProducer)
		}
	}
	return func(outcomes []error) {
		for i, m := range batch {
			if !spans[i].Records(outcomes[i] != nil) {
				continue
			}
			spans[i].End("relay", observe.Problem(outcomes[i]),
				attribute.String("messaging.operation.name", "relay"), attribute.String("messaging.operation.type", "send"),
				attribute.String("messaging.destination.name", m.to.queue.name+m.to.topic), attribute.String("messaging.message.id", m.id),
				attribute.Int("plinth.attempts", m.attempts), attribute.String("plinth.tenant", m.tenant))
		}
	}
}

// apart returns a context with a trace of its own, which is linked to that of ctx. It is for messages that are published together
// and have nothing to do with each other, such as those of schedules that fire at the same time.
func (s *Service) apart(ctx context.Context) context.Context {
	if s.tracing == nil {
		return ctx
	}
	var links []trace.Link
	if from := trace.SpanContextFromContext(ctx); from.IsValid() {
		links = append(links, trace.Link{SpanContext: from})
	}
	ctx, span := s.tracing.Start(ctx, "create", trace.SpanKindProducer, links...)
	span.End("create", "", attribute.String("messaging.operation.name", "create"), attribute.String("messaging.operation.type", "create"))
	return ctx
}
