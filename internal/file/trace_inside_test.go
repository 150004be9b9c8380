package file

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"plinth/internal/blob"
	"plinth/internal/blob/blobtest"
	"plinth/internal/observe"
	"plinth/internal/observe/observetest"
	"plinth/internal/pg/pgtest"
)

// What a worker does of an upload is below the call that completed it, each time that it tries, and so is the event.
func TestTraceOfVerifying(t *testing.T) {
	t.Parallel()
	const parent, state = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1"
	collector := observetest.New(t)
	tracing, err := observe.NewTracing(t.Context(), observe.TracingConfig{
		Endpoint: collector.URL, Protocol: "http/protobuf", Timeout: 10 * time.Second, Sampler: "always_on", Service: "test", Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, Limits{})
	f.tracing = tracing
	f.listen(t, "acme")
	content := random(10)
	d := f.offered(t, "acme", Upload{}, content, blob.MinPart)
	f.sendURLs(t, "acme", d, content, 1)
	ctx, call := tracing.Start(observe.WithTrace(as(t, "acme"), parent, state), "complete", trace.SpanKindServer)
	if _, err := f.CompleteUpload(ctx, d.ID); err != nil {
		t.Fatal(err)
	}
	call.End("complete", "")
	for _, away := range []bool{true, false} {
		f.exec(t, `UPDATE files SET verify_at = now() WHERE verify_at < 'infinity'`)
		claimed, err := claimUnverified(t.Context(), f.system)
		if err != nil || len(claimed) != 1 {
			t.Fatal(claimed, err)
		}
		if away {
			f.proxy.Set(func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 503, Body: slowDown} })
		}
		f.verify(t.Context(), claimed[0])
		f.proxy.Set(nil)
	}
	tracing.Close(t.Context())
	spans := collector.Await(t, "all spans", func(all []observetest.Span) bool { return len(observetest.Named(all, "verify")) == 2 })
	completed := observetest.Named(spans, "complete")[0]
	var failed []bool
	for _, s := range observetest.Named(spans, "verify") {
		failed = append(failed, s.Failed)
		if s.Trace != parent[3:35] || s.Parent != completed.ID || s.Attributes["plinth.file"] != d.ID || s.Attributes["plinth.tenant"] != "acme" {
			t.Errorf("%+v", s)
		}
		if !slices.ContainsFunc(observetest.Named(spans, "GetObject"), func(read observetest.Span) bool { return read.Parent == s.ID }) {
			t.Errorf("nothing was read below %+v", s)
		}
	}
	if !slices.Equal(failed, []bool{true, false}) {
		t.Error(failed)
	}
	var of, with string
	var kept int
	if err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `
		SELECT headers ->> 'traceparent', headers ->> 'tracestate', (SELECT count(*) FROM files WHERE trace_parent IS NOT NULL OR trace_state IS NOT NULL)
		FROM message_waiting WHERE routing_key = $1`, created).Scan(&of, &with, &kept); err != nil {
		t.Fatal(err)
	}
	if last := observetest.Named(spans, "verify")[1]; of != "00-"+last.Trace+"-"+last.ID+"-01" || with != state || kept != 0 {
		t.Errorf("the event has %q and %q, and %d rows keep a trace", of, with, kept)
	}
}

// What workers do of files that no call waits for has traces of its own. That of a removal is linked to the call that deleted the file,
// each time that it is tried.
func TestTraceOfWork(t *testing.T) {
	t.Parallel()
	collector := observetest.New(t)
	tracing, err := observe.NewTracing(t.Context(), observe.TracingConfig{
		Endpoint: collector.URL, Protocol: "http/protobuf", Timeout: 10 * time.Second, Sampler: "always_on", Service: "test", Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, Limits{})
	f.tracing = tracing
	uploaded := func(name string, content []byte) File {
		return f.upload(t, "acme", Upload{Filename: name, Size: int64(len(content))}, content)
	}
	picture, broken := uploaded("a.png", pngOf(t, painted(300, 300))), uploaded("b.png", bomb(1<<20, 1<<20))
	expiring := uploaded("c", random(10))
	for _, of := range []File{picture, broken} {
		f.workOffPreview(as(t, "acme"), of.ID, preview{width: 64})
	}
	work := func() {
		t.Helper()
		claimed, err := claimDue(t.Context(), f.system, 10, time.Minute)
		if err != nil || len(claimed) != 1 {
			t.Fatal(claimed, err)
		}
		f.workOff(t.Context(), claimed[0])
	}
	f.exec(t, `UPDATE files SET due_at = now(), expires_at = now() WHERE id = $1::uuid`, expiring.ID)
	work() // expires
	f.exec(t, `UPDATE files SET due_at = 'infinity' WHERE id = $1::uuid`, expiring.ID)
	ctx, call := tracing.Start(as(t, "acme"), "delete", trace.SpanKindServer)
	if err := f.DeleteFile(ctx, picture.ID); err != nil {
		t.Fatal(err)
	}
	call.End("delete", "")
	f.proxy.Set(func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 503, Body: slowDown} })
	work()
	f.proxy.Set(nil)
	f.exec(t, `UPDATE files SET due_at = now() WHERE id = $1::uuid`, picture.ID)
	work()
	tracing.Close(t.Context())
	spans := collector.Await(t, "all spans", func(all []observetest.Span) bool { return len(observetest.Named(all, "remove")) == 2 })
	deleting := observetest.Named(spans, "delete")[0]
	for name, want := range map[string][]struct {
		file   string
		failed bool
		link   string // its trace
		step   string // below it
	}{
		"preview": {{picture.ID, false, "", "PutObject"}, {broken.ID, false, "", "GetObject"}},
		"expire":  {{expiring.ID, false, "", "UPDATE"}},
		"remove":  {{picture.ID, true, deleting.Trace, "HeadObject"}, {picture.ID, false, deleting.Trace, "DeleteObject"}},
	} {
		got := observetest.Named(spans, name)
		if len(got) != len(want) {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i, s := range got {
			w := want[i]
			if s.Attributes["plinth.file"] != w.file || s.Attributes["plinth.tenant"] != "acme" || s.Failed != w.failed || s.Parent != "" || s.Trace == deleting.Trace {
				t.Errorf("%s: %+v", name, s)
			}
			if w.link == "" && len(s.Links) != 0 || w.link != "" && !slices.Equal(s.Links, []string{w.link}) {
				t.Errorf("%s is linked to %v, the call is %s", name, s.Links, deleting.Trace)
			}
			if !slices.ContainsFunc(observetest.Named(spans, w.step), func(step observetest.Span) bool { return step.Trace == s.Trace }) {
				t.Errorf("%s: there is no %s below it", name, w.step)
			}
		}
	}
}
