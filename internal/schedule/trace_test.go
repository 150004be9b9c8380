package schedule_test

import (
	"context"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"plinth/internal/kv"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/observe/observetest"
	"plinth/internal/schedule"
)

// The message of a run has a trace of its own, which is linked to the tick that made it.
func TestTraceOfATick(t *testing.T) {
	t.Parallel()
	collector := observetest.New(t)
	f := newFixture(t)
	tracing, err := observe.NewTracing(t.Context(), observe.TracingConfig{
		Endpoint: collector.URL, Protocol: "http/protobuf", Timeout: 10 * time.Second, Sampler: "always_on", Service: "test", Log: f.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.queue(t, "acme", "q")
	p, ctx := f.configured(t, schedule.Config{Tracing: tracing}), as(t, "acme")
	p.work(t)
	if _, err := p.Create(ctx, parse(t, "each-second"), every(time.Second)); err != nil {
		t.Fatal(err)
	}
	var made, tick observetest.Span
	collector.Await(t, "a tick and the message of its run", func(all []observetest.Span) bool {
		for _, made = range observetest.Named(all, "create") {
			for _, tick = range observetest.Named(all, "tick") {
				if len(made.Links) == 1 && made.Links[0] == tick.Trace {
					return true
				}
			}
		}
		return false
	})
	if made.Trace == tick.Trace || made.Parent != "" || tick.Parent != "" {
		t.Errorf("the message %+v, the tick %+v", made, tick)
	}
	if n := f.count(t, `SELECT count(*) FROM message_waiting WHERE headers ->> 'traceparent' LIKE '00-' || $1 || '-%'`, made.Trace); n != 1 {
		t.Errorf("%d messages have the trace", n)
	}
}

// A job of the service has a trace of its own, with its name, whether it fails or not.
func TestTraceOfOwnJobs(t *testing.T) {
	t.Parallel()
	collector := observetest.New(t)
	f := newFixture(t)
	tracing, err := observe.NewTracing(t.Context(), observe.TracingConfig{
		Endpoint: collector.URL, Protocol: "http/protobuf", Timeout: 10 * time.Second, Sampler: "always_on", Service: "test", Log: f.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := kv.Open("redis://" + miniredis.RunT(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	p := f.configured(t, schedule.Config{Tracing: tracing, Redis: client})
	p.Own(
		loop.Job{Name: "sweeps", Interval: time.Hour, Run: func(ctx context.Context) error {
			_, step := observe.Begin(ctx, observe.S3, "ListObjects")
			step.End("")
			return nil
		}},
		loop.Job{Name: "panics", Interval: time.Hour, Run: func(context.Context) error { panic("ouch") }},
	)
	p.work(t)
	spans := collector.Await(t, "both jobs", func(all []observetest.Span) bool { return len(observetest.Named(all, "job")) == 2 })
	for _, job := range observetest.Named(spans, "job") {
		name := job.Attributes["plinth.job"]
		if job.Parent != "" || job.Failed != (name == "panics") {
			t.Errorf("%+v", job)
		}
		if steps := observetest.Named(spans, "ListObjects"); name == "sweeps" && (len(steps) != 1 || steps[0].Parent != job.ID) {
			t.Errorf("below it are %+v", steps)
		}
	}
}
