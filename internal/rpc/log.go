package rpc

import (
	"context"
	"regexp"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/errs"
	"plinth/internal/rpc/rest"
)

// logCalls counts each request and logs one line for it.
func (s *Stack) logCalls(next link) link {
	return func(ctx context.Context, c *call) {
		s.metrics.open.Add(1)
		defer func() {
			s.metrics.open.Add(-1)
			c.endSpan()
			s.metrics.count(c)
			s.logCall(c)
		}()
		next(ctx, c)
	}
}

// logCall logs a request: at debug for probes, which come every second and whose results are logged separately when they
// change; at error if the server is at fault; at info otherwise, including errors of clients.
func (s *Stack) logCall(c *call) {
	level := zapcore.InfoLevel
	switch {
	case isProbe(c.path):
		level = zapcore.DebugLevel
	case serverFault(c):
		level = zapcore.ErrorLevel
	}
	if entry := s.Log.Check(level, "request"); entry != nil {
		entry.Write(zap.Inline(c)) // A slice of fields would be the largest allocation of a call.
	}
}

// maxLogged is the most bytes of an error that are logged, enough for a stack trace.
const maxLogged = 16 << 10

// MarshalLogObject adds the fields of the call's log line.
func (c *call) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("method", errs.Shortened(c.method, maxFault))
	line.AddString("path", errs.Shortened(c.path, maxFault))
	line.AddString("protocol", protocol(c))
	line.AddString("code", codeName(c.code))
	line.AddInt64("status", int64(c.status))
	line.AddDuration("duration_ms", time.Since(c.start))
	c.spent.AddTo(line)
	line.AddString("request_id", c.id)
	line.AddString("peer", c.request.RemoteAddr)
	if c.isREST() && c.target != unknown {
		line.AddString("procedure", c.target.name)
	}
	if p := c.principal; p != nil {
		line.AddString("principal", p.ID)
		line.AddString("tenant", p.Tenant.Name)
	}
	if c.trace != "" {
		line.AddString("trace_id", c.trace)
	}
	if c.err != nil {
		line.AddString("error", errs.Shortened(unquoted(c.err.Error()), maxLogged))
	}
	return nil
}

// quoting matches what the error of a request that does not parse says, to where it begins to repeat the request: that may be a payload.
var quoting = regexp.MustCompile(`(?s)(` + rest.Unparsable + `.*?\(line \d+:\d+\)(?:: invalid value for \w+ field \w+)?).*`)

// unquoted returns the text of an error without what it repeats of a request, which is for who sent that alone.
func unquoted(text string) string {
	if !strings.Contains(text, rest.Unparsable) {
		return text
	}
	return quoting.ReplaceAllString(text, "$1")
}

// serverFault reports whether a call has failed because of the server. A stream that ends because it is too old, or because the server
// stops, has not.
func serverFault(c *call) bool {
	return isServerFault(c.code) && !c.planned || c.partFault || c.code == 0 && c.status >= 500
}

func isServerFault(code connect.Code) bool {
	switch code {
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeDataLoss, connect.CodeUnavailable:
		return true
	}
	return false
}

func codeName(code connect.Code) string {
	if code == 0 {
		return "ok"
	}
	return code.String()
}

func protocol(c *call) string {
	contentType := c.request.Header.Get("Content-Type")
	switch {
	case c.isREST():
		return "rest"
	case strings.HasPrefix(contentType, "application/grpc-web"):
		return "grpcweb"
	case strings.HasPrefix(contentType, "application/grpc"):
		return "grpc"
	case c.procedure != "":
		return "connect"
	default:
		return "http"
	}
}

func isProbe(path string) bool {
	switch path {
	case "/health", "/livez", "/readyz", "/grpc.health.v1.Health/Check":
		return true
	}
	return false
}
