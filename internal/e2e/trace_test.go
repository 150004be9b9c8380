package e2e

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"

	"plinth/internal/observe/observetest"
)

// TestTrace follows a message from the client's call to its handler in another process: the spans have one trace and the right
// parents, and neither they nor the logs and the metrics have anything of what the client sent.
func TestTrace(t *testing.T) {
	t.Parallel()
	const parent, canary = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "canary-d41d8cd9"
	collector := observetest.New(t)
	s := startSystem(t, with(backends(t, "postgres"), map[string]string{
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.URL, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=" + canary, "ADMIN_ADDR": "127.0.0.1:0",
		"LOG_LEVEL": "debug",
	}))
	traced(t, s.url, parent, `{"queue": "task_queue", "message": "a task", "delay": "0.2s", "attributes": {"note": "`+canary+`"}}`)
	traced(t, s.url, "", `{"queue": "task_queue", "message": "another", "idempotencyKey": "`+canary+`", "delay": "3600s"}`)
	spans := collector.Await(t, "the message is handled", func(all []observetest.Span) bool {
		return len(observetest.Named(all, "process task_queue")) > 0 && len(observetest.Named(all, "relay")) > 0 &&
			len(observetest.Named(all, "plinth.message.v1.MessageService/Publish")) > 1
	})
	only := func(name string) observetest.Span {
		t.Helper()
		var of []observetest.Span
		for _, span := range observetest.Named(spans, name) {
			if span.Trace == parent[3:35] {
				of = append(of, span)
			}
		}
		if len(of) != 1 {
			t.Fatalf("%d spans %q of the trace: %+v", len(of), name, spans)
		}
		return of[0]
	}
	call, relay, handled := only("plinth.message.v1.MessageService/Publish"), only("relay"), only("process task_queue")
	if call.Parent != parent[36:52] || call.Kind != tracev1.Span_SPAN_KIND_SERVER || call.Attributes["plinth.tenant"] != "default" ||
		call.Attributes["http.request.method"] != "POST" || call.Attributes["plinth.protocol"] != "rest" {
		t.Errorf("call: %+v", call)
	}
	if relay.Parent != call.ID || relay.Kind != tracev1.Span_SPAN_KIND_PRODUCER || relay.Attributes["messaging.destination.name"] != "task_queue" {
		t.Errorf("relay: %+v", relay)
	}
	if handled.Parent != call.ID || handled.Kind != tracev1.Span_SPAN_KIND_CONSUMER || handled.Attributes["plinth.attempt"] != "1" ||
		handled.Attributes["messaging.message.id"] != relay.Attributes["messaging.message.id"] {
		t.Errorf("process: %+v", handled)
	}
	inserts := 0
	for _, span := range spans {
		if span.Parent == call.ID && span.Attributes["db.system.name"] == "postgresql" && strings.Contains(span.Attributes["db.query.text"], "INSERT INTO message_waiting") {
			inserts++
		}
	}
	if inserts != 1 {
		t.Errorf("%d inserts into the waiting table below the call: %+v", inserts, spans)
	}
	if bytes.Contains(collector.Raw(), []byte(canary)) {
		t.Error("a span has what the client sent")
	}
	for _, p := range []*process{s.server, s.worker} {
		res, err := http.Get(p.admin(t) + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if len(metrics) == 0 || bytes.Contains(metrics, []byte(canary)) {
			t.Errorf("metrics of %s: %d bytes, or with what the client sent", p.name, len(metrics))
		}
		for lines, _ := p.log.from(0); len(lines) > 0; lines = lines[1:] {
			if strings.Contains(lines[0], canary) {
				t.Errorf("a line of %s has what the client sent: %s", p.name, lines[0])
			}
		}
	}
}

// post publishes a message by REST, in a trace.
func traced(t *testing.T, url, parent, body string) {
	t.Helper()
	req, err := http.NewRequest("POST", url+"/api/v1/message", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+adminKey)
	if parent != "" {
		req.Header.Set("Traceparent", parent)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if reply, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", res.StatusCode, reply)
	}
}
