// Package observetest has an OTLP collector for tests.
package observetest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	metricsv1 "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.opentelemetry.io/proto/otlp/metrics/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector receives traces and metrics by OTLP over HTTP.
type Collector struct {
	URL        string // of traces
	MetricsURL string

	mu      sync.Mutex
	spans   []Span
	metrics map[string]*v1.Metric // the last of each name
	raw     bytes.Buffer
	refuses bool
	changed chan struct{}
}

// Span is a span as it was received.
type Span struct {
	Trace, ID, Parent string // in hexadecimal
	Name, Service     string
	Kind              tracev1.Span_SpanKind
	Failed            bool
	Links             []string // traces
	Attributes        map[string]string
}

// New returns a collector that is there until the test ends.
func New(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{changed: make(chan struct{}), metrics: map[string]*v1.Metric{}}
	server := httptest.NewServer(http.HandlerFunc(c.receive))
	t.Cleanup(server.Close)
	c.URL, c.MetricsURL = server.URL+"/v1/traces", server.URL+"/v1/metrics"
	return c
}

// Refuse makes the collector refuse what it is sent, in a reply that repeats who asks, or take it again.
func (c *Collector) Refuse(refuses bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuses = refuses
}

func (c *Collector) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	var metrics metricsv1.ExportMetricsServiceRequest
	into := map[string]proto.Message{"/v1/traces": &request, "/v1/metrics": &metrics}[r.URL.Path]
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.refuses || into == nil || proto.Unmarshal(body, into) != nil {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, "not with %q", r.Header["Authorization"])
		return
	}
	c.raw.Write(body)
	for _, resource := range metrics.GetResourceMetrics() {
		for _, scope := range resource.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				c.metrics[m.GetName()] = m
			}
		}
	}
	for _, resource := range request.GetResourceSpans() {
		service := ""
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, received(s, service))
			}
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func received(s *tracev1.Span, service string) Span {
	span := Span{
		Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		Name: s.GetName(), Service: service, Kind: s.GetKind(), Failed: s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR,
		Attributes: map[string]string{},
	}
	for _, l := range s.GetLinks() {
		span.Links = append(span.Links, hex.EncodeToString(l.GetTraceId()))
	}
	for _, a := range s.GetAttributes() {
		value := a.GetValue().GetStringValue()
		if value == "" {
			value = fmt.Sprint(a.GetValue().GetIntValue())
		}
		span.Attributes[a.GetKey()] = value
	}
	return span
}

// Await blocks until spans were received that are as wanted, and returns all spans.
func (c *Collector) Await(t testing.TB, what string, wanted func([]Span) bool) []Span {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		c.mu.Lock()
		spans, changed := append([]Span(nil), c.spans...), c.changed
		c.mu.Unlock()
		if wanted(spans) {
			return spans
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%s: not received; there are %+v", what, spans)
		}
	}
}

// AwaitMetric blocks until a metric was received that is as wanted.
func (c *Collector) AwaitMetric(t testing.TB, name string, wanted func(*v1.Metric) bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		c.mu.Lock()
		metric, changed := c.metrics[name], c.changed
		c.mu.Unlock()
		if metric != nil && wanted(metric) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%s: not received; it is %v", name, metric)
		}
	}
}

// Named returns the spans of a name.
func Named(spans []Span, name string) (found []Span) {
	for _, s := range spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// Raw returns all that was received, as it was sent.
func (c *Collector) Raw() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.raw.Bytes())
}
