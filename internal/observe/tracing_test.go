package observe_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/observe/observetest"
)

const (
	sampled   = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
)

func open(t *testing.T, c observe.TracingConfig) (*observe.Tracing, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	c.Protocol, c.Service, c.Log = "http/protobuf", "test", zap.New(core)
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Sampler == "" {
		c.Sampler = "parentbased_always_on"
	}
	tracing, err := observe.NewTracing(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return tracing, logs
}

// TestTrace exports a call with two steps, one of which fails.
func TestTrace(t *testing.T) {
	t.Parallel()
	collector := observetest.New(t)
	tracing, _ := open(t, observe.TracingConfig{Endpoint: collector.URL, Recent: true})
	ctx, span := tracing.Start(observe.WithTrace(t.Context(), sampled, "a=b"), "call", trace.SpanKindServer)
	_, step := observe.Begin(ctx, observe.Postgres, "SELECT")
	step.End("")
	inner, step := observe.Begin(ctx, observe.Outbound, "POST")
	told, state := observe.Trace(inner)
	step.End("timeout")
	span.End("Publish", "")
	tracing.Close(t.Context())
	spans := collector.Await(t, "three spans", func(s []observetest.Span) bool { return len(s) == 3 })
	call, query, post := observetest.Named(spans, "Publish")[0], observetest.Named(spans, "SELECT")[0], observetest.Named(spans, "POST")[0]
	if call.Trace != sampled[3:35] || call.Parent != sampled[36:52] || call.Kind != tracev1.Span_SPAN_KIND_SERVER || call.Service != "test" || call.Failed {
		t.Errorf("call: %+v", call)
	}
	if query.Trace != call.Trace || query.Parent != call.ID || query.Kind != tracev1.Span_SPAN_KIND_CLIENT || query.Failed {
		t.Errorf("query: %+v", query)
	}
	if post.Parent != call.ID || !post.Failed || post.Attributes["error.type"] != "timeout" {
		t.Errorf("post: %+v", post)
	}
	if told != "00-"+post.Trace+"-"+post.ID+"-01" || state != "a=b" {
		t.Errorf("the other side is told %q %q", told, state)
	}
	if span.TraceID() != call.Trace || span.Sampled() != call.Trace {
		t.Errorf("the log has %q", span.TraceID())
	}
	if recent := tracing.Recent().Traces(); len(recent) != 1 || len(recent[0].Spans) != 3 || recent[0].ID != call.Trace {
		t.Errorf("in memory are %+v", recent)
	}
}

// Of a trace that is not recorded, a span that fails is exported, with the ids that the log has and others were told.
func TestFailuresAreRecorded(t *testing.T) {
	t.Parallel()
	collector := observetest.New(t)
	tracing, _ := open(t, observe.TracingConfig{Endpoint: collector.URL})
	for _, problem := range []string{"", "internal"} {
		ctx, span := tracing.Start(observe.WithTrace(t.Context(), unsampled, ""), "call", trace.SpanKindServer)
		_, step := observe.Begin(ctx, observe.Postgres, "SELECT")
		step.End("")
		told, _ := observe.Trace(ctx)
		span.End("Publish", problem)
		if !strings.HasPrefix(told, unsampled[:36]) || !strings.HasSuffix(told, "-00") {
			t.Errorf("others are told %q", told)
		}
		if recorded := span.Sampled() != ""; recorded != (problem != "") {
			t.Errorf("problem %q: recorded %t", problem, recorded)
		}
	}
	tracing.Close(t.Context())
	spans := collector.Await(t, "a span", func(s []observetest.Span) bool { return len(s) > 0 })
	if len(spans) != 1 || spans[0].Trace != unsampled[3:35] || spans[0].Parent != unsampled[36:52] || !spans[0].Failed {
		t.Errorf("%+v", spans)
	}
}

func TestRatio(t *testing.T) {
	t.Parallel()
	const calls = 4000
	for sampler, want := range map[string]struct{ least, most int }{
		"traceidratio": {800, 1200}, "parentbased_traceidratio": {800, 1200}, "always_off": {0, 0}, "always_on": {calls, calls},
	} {
		tracing, _ := open(t, observe.TracingConfig{Recent: true, Sampler: sampler, Ratio: 0.25})
		n := 0
		for range calls {
			_, span := tracing.Start(t.Context(), "call", trace.SpanKindServer)
			if span.Sampled() != "" {
				n++
			}
			span.End("call", "")
		}
		if n < want.least || n > want.most {
			t.Errorf("%s records %d of %d", sampler, n, calls)
		}
		if recent := len(tracing.Recent().Traces()); recent > 200 || n > 0 && recent != 200 {
			t.Errorf("%s: %d traces are in memory", sampler, recent)
		}
	}
}

// TestOff has no traces: there is nothing to make, and nothing is allocated.
func TestOff(t *testing.T) { // Not parallel: it counts allocations.
	tracing, _ := open(t, observe.TracingConfig{})
	if tracing != nil {
		t.Fatal("there is a Tracing")
	}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		ctx, span := tracing.Start(ctx, "call", trace.SpanKindServer)
		_, step := observe.Begin(ctx, observe.Postgres, "SELECT")
		step.End("")
		span.End("call", "")
	}); n != 0 {
		t.Errorf("a call and a step allocate %v times", n)
	}
	if parent, _ := observe.Trace(ctx); parent != "" {
		t.Errorf("others are told %q", parent)
	}
}

// TestCollectorAway has collectors that are not there, refuse, and hang. Spans end as before, and one line tells.
func TestCollectorAway(t *testing.T) {
	t.Parallel()
	hanging := make(chan struct{})
	defer close(hanging)
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hanging:
		case <-r.Context().Done():
		}
	}))
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	refusing := observetest.New(t)
	refusing.Refuse(true)
	for name, url := range map[string]string{
		"away": "http://" + nobody.Addr().String() + "/v1/traces", "refuses": refusing.URL, "hangs": hangs.URL + "/v1/traces",
	} {
		tracing, logs := open(t, observe.TracingConfig{Endpoint: url, Timeout: 200 * time.Millisecond})
		const spans = 20_000 // many times the queue: they are dropped, not waited for
		for range spans {
			_, span := tracing.Start(t.Context(), "call", trace.SpanKindServer)
			span.End("call", "")
		}
		closing, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		tracing.Close(closing)
		cancel()
		if n := logs.FilterMessageSnippet("traces are lost").Len(); n != 1 || logs.Len() != 1 {
			t.Errorf("%s: %d lines, of %d", name, n, logs.Len())
		}
	}
	hangs.CloseClientConnections()
}

// TestProblem has an error whose text has a value.
func TestProblem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{{nil, ""}, {errors.New("canary"), "internal"}, {fmt.Errorf("x: %w", errs.New(errs.Unavailable, "canary")), "unavailable"}} {
		if got := observe.Problem(c.err); got != c.want {
			t.Errorf("%v: %q", c.err, got)
		}
	}
}
