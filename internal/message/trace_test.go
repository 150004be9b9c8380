package message_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/observe/observetest"
)

// TestTraceOfAMessage has a message fail twice, become a dead letter, come back and be handled: all of that is one trace, and every
// attempt is below the call that published the message.
func TestTraceOfAMessage(t *testing.T) {
	t.Parallel()
	collector := observetest.New(t)
	f := newFixture(t, false)
	tracing, err := observe.NewTracing(t.Context(), observe.TracingConfig{
		Endpoint: collector.URL, Protocol: "http/protobuf", Timeout: 10 * time.Second, Sampler: "always_on", Service: "test", Log: f.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	notifier := f.notifier(t)
	f.Service = message.New(message.Config{
		DB: f.db, Handlers: f.db, System: f.system, Notifier: notifier, Broker: f.broker, Tracing: tracing, Log: f.log,
	})
	notify(t, notifier)
	run(t, f.Run)
	q := f.queueOf(t, "tasks", quick)

	const canary = "canary-6b2e"
	ctx, span := tracing.Start(auth.AsService(t.Context(), auth.DefaultTenant), "call", trace.SpanKindServer)
	if _, err := f.Publish(ctx, message.Publication{To: message.ToQueue(q), Body: []byte(canary), Attributes: map[string]string{"k": canary}}); err != nil {
		t.Fatal(err)
	}
	span.End("call", "")
	var attempts atomic.Int32
	f.worker(t, time.Second, message.HandleBytes("tasks", func(_ context.Context, m message.Message) error {
		switch attempts.Add(1) {
		case 1:
			return errs.New(errs.Unavailable, "%s", m.Body)
		case 2:
			return errs.New(errs.InvalidArgument, "%s", m.Body)
		}
		return nil
	}))
	f.dead(t, q, 1)
	f.redrive(t, q, all, 0)
	spans := collector.Await(t, "three attempts", func(s []observetest.Span) bool {
		return len(observetest.Named(s, "process tasks")) == 3 && len(observetest.Named(s, "relay")) == 2 && len(observetest.Named(s, "call")) == 1
	})
	call := observetest.Named(spans, "call")[0]
	var failed []bool
	for _, s := range append(observetest.Named(spans, "process tasks"), observetest.Named(spans, "relay")...) {
		if s.Trace != call.Trace || s.Parent != call.ID {
			t.Errorf("%+v is not below the call %+v", s, call)
		}
		if s.Name != "relay" {
			failed = append(failed, s.Failed)
		}
	}
	if len(failed) != 3 || !failed[0] || !failed[1] || failed[2] {
		t.Errorf("failed are %v", failed)
	}
	if raw := string(collector.Raw()); strings.Contains(raw, canary) {
		t.Error("a span has a part of the message")
	}
}
