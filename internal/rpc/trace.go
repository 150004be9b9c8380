package rpc

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"plinth/internal/observe"
)

// maxTraceState is the most bytes of a tracestate that are passed on: the least that the standard asks for.
const maxTraceState = 512

// joinTrace makes the call part of its caller's trace, with a span of its own if there is tracing. Probes have none.
func (s *Stack) joinTrace(next link) link {
	return func(ctx context.Context, c *call) {
		if parent, state := traceOf(c.request.Header); parent != "" {
			c.trace = parent[3:35]
			ctx = observe.WithTrace(ctx, parent, state)
		}
		if s.Tracing != nil && !isProbe(c.path) {
			ctx, c.span = s.Tracing.Start(ctx, "call", trace.SpanKindServer)
			c.trace = c.span.TraceID()
		}
		next(ctx, c)
	}
}

// traceOf parses the W3C trace context of a request (https://www.w3.org/TR/trace-context/): a valid traceparent, which is
// `version-traceid-parentid-flags`, and its tracestate, which is dropped if it is long or malformed. A traceparent of a
// later version is taken by the parts of this one, and passed on as one of this. parent is empty if there is no valid one.
func traceOf(h http.Header) (parent, state string) {
	parents := h["Traceparent"]
	if len(parents) != 1 {
		return "", ""
	}
	p := parents[0]
	if len(p) < 55 || p[2] != '-' || p[35] != '-' || p[52] != '-' || p[:2] == "ff" || p[:2] == "00" && len(p) != 55 || len(p) > 55 && p[55] != '-' {
		return "", ""
	}
	if !isHex(p[:2]) || !isHex(p[3:35]) || !isHex(p[36:52]) || !isHex(p[53:55]) || isZero(p[3:35]) || isZero(p[36:52]) {
		return "", ""
	}
	if states := h["Tracestate"]; len(states) > 0 {
		state = strings.Join(states, ",")
	}
	if len(state) > maxTraceState || strings.ContainsFunc(state, func(r rune) bool { return r < ' ' || r > '~' }) {
		state = ""
	}
	return "00" + p[2:55], state
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}

func isZero(s string) bool { return strings.Trim(s, "0") == "" }

// systems are the names of the protocols in spans, by OpenTelemetry's semantic conventions.
var systems = map[string]string{"connect": "connectrpc", "grpc": "grpc", "grpcweb": "grpc"}

// endSpan ends the span of the call. It has nothing that the client sent but the id of the request and the name of its tenant.
func (c *call) endSpan() {
	failed := serverFault(c)
	if !c.span.Records(failed) {
		return
	}
	name, problem := methodLabel(c.target.method), ""
	if failed {
		problem = codeName(c.code)
	}
	protocol := protocol(c)
	attributes := []attribute.KeyValue{
		attribute.String("plinth.request_id", c.id), attribute.String("plinth.protocol", protocol), attribute.String("plinth.code", codeName(c.code)),
	}
	if c.principal != nil {
		attributes = append(attributes, attribute.String("plinth.tenant", c.principal.Tenant.Name))
	}
	if system := systems[protocol]; system != "" {
		attributes = append(attributes, attribute.String("rpc.system.name", system), attribute.String("rpc.method", name),
			attribute.String("rpc.response.status_code", codeName(c.code)))
	} else {
		attributes = append(attributes, attribute.String("http.request.method", spanMethod(c.method)), attribute.String("http.route", name),
			attribute.Int("http.response.status_code", c.status))
	}
	c.span.End(name, problem, attributes...)
}

// spanMethod returns a method of HTTP, or _OTHER for one that a client made up.
func spanMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "_OTHER"
}
