package rpc

import (
	"context"
	"net/http"
	"strings"

	"plinth/internal/observe"
)

// maxTraceState is the most bytes of a tracestate that are passed on: the least that the standard asks for.
const maxTraceState = 512

// joinTrace makes the call part of its caller's trace.
func joinTrace(next link) link {
	return func(ctx context.Context, c *call) {
		if parent, state := traceOf(c.request.Header); parent != "" {
			c.trace = parent[3:35]
			ctx = observe.WithTrace(ctx, parent, state)
		}
		next(ctx, c)
	}
}

// traceOf parses the W3C trace context of a request (https://www.w3.org/TR/trace-context/): a valid traceparent, which is
// `version-traceid-parentid-flags`, and its tracestate, which is dropped if it is long or malformed. A traceparent of a
// later version is cut to the parts of this one. parent is empty if there is no valid one.
func traceOf(h http.Header) (parent, state string) {
	parents := h["Traceparent"]
	if len(parents) != 1 {
		return "", ""
	}
	p := parents[0]
	if len(p) < 55 || p[2] != '-' || p[35] != '-' || p[52] != '-' || p[:2] == "ff" || p[:2] == "00" && len(p) != 55 {
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
	return p[:55], state
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
