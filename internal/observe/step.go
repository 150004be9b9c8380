package observe

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap/zapcore"
)

// Backend is where a step goes.
type Backend uint8

// The backends, and calls out.
const (
	Postgres Backend = iota
	Redis
	Broker
	S3
	Outbound
	numBackends
)

// fields are the names in log lines.
var fields = [numBackends]string{"postgres_ms", "redis_ms", "broker_ms", "s3_ms", "outbound_ms"}

// Spent is the time that a call, or the handling of a message, spent in each backend. Steps at the same time are added up.
type Spent struct{ in [numBackends]atomic.Int64 }

// Spent returns s. It makes a *Spent a value for CallKey.
func (s *Spent) Spent() *Spent { return s }

// AddTo adds the times to a log line, without those that are zero.
func (s *Spent) AddTo(line zapcore.ObjectEncoder) {
	for b := range s.in {
		if n := s.in[b].Load(); n > 0 {
			line.AddDuration(fields[b], time.Duration(n))
		}
	}
}

// CallKey is the key of the context's call: a value with a method Spent() *Spent. There is one key, so that a call needs one
// context.
type CallKey struct{}

func spentOf(ctx context.Context) *Spent {
	if c, ok := ctx.Value(CallKey{}).(interface{ Spent() *Spent }); ok {
		return c.Spent()
	}
	return nil
}

// Step is a request to a backend that has begun.
type Step struct {
	spent   *Spent
	backend Backend
	start   time.Time
	span    trace.Span // nil if the trace is not recorded
}

// Begin begins a step, with a span if the trace of ctx is recorded. Its name is one of a few: never a key, an id or an address.
// End ends the step, once. The context is that of the span.
func Begin(ctx context.Context, to Backend, name string) (context.Context, Step) {
	s := Step{spent: spentOf(ctx), backend: to, start: time.Now()}
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, s
	}
	kind := trace.SpanKindClient
	if to == Broker {
		kind = trace.SpanKindProducer
	}
	ctx, s.span = parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithSpanKind(kind), trace.WithTimestamp(s.start))
	return ctx, s
}

// Records reports whether there is a span, so that its attributes are worth computing.
func (s Step) Records() bool { return s.span != nil }

// Describe adds attributes to the span, if there is one.
func (s Step) Describe(attributes ...attribute.KeyValue) {
	if s.span != nil {
		s.span.SetAttributes(attributes...)
	}
}

// End ends the step and returns how long it took. problem is the kind of what it failed with, never a text that may have
// values; "" is success.
func (s Step) End(problem string) time.Duration {
	took := time.Since(s.start)
	if s.spent != nil {
		s.spent.in[s.backend].Add(int64(took))
	}
	if s.span != nil {
		if problem != "" {
			s.span.SetStatus(codes.Error, problem)
			s.span.SetAttributes(attribute.String("error.type", problem))
		}
		s.span.End()
	}
	return took
}
