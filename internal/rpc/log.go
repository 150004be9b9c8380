package rpc

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/errs"
)

// logCalls logs one line for each request.
func (s *Stack) logCalls(next link) link {
	return func(ctx context.Context, c *call) {
		defer s.logCall(c)
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
	line.AddString("method", c.method)
	line.AddString("path", errs.Shortened(c.path, maxFault))
	line.AddString("protocol", protocol(c))
	line.AddString("code", codeName(c.code))
	line.AddInt64("status", int64(c.status))
	line.AddDuration("duration_ms", time.Since(c.start))
	line.AddString("request_id", c.id)
	line.AddString("peer", c.request.RemoteAddr)
	if c.isREST() && c.procedure != "" {
		line.AddString("procedure", c.procedure)
	}
	if p := c.principal; p != nil {
		line.AddString("principal", p.ID)
		line.AddString("tenant", p.Tenant.Name)
	}
	if c.trace != "" {
		line.AddString("trace_id", c.trace)
	}
	if c.err != nil {
		line.AddString("error", errs.Shortened(c.err.Error(), maxLogged))
	}
	return nil
}

func serverFault(c *call) bool {
	return isServerFault(c.code) || c.partFault || c.code == 0 && c.status >= 500
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
	case strings.HasPrefix(contentType, "application/grpc-web"):
		return "grpcweb"
	case strings.HasPrefix(contentType, "application/grpc"):
		return "grpc"
	case c.isREST():
		return "rest"
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
