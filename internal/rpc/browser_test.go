package rpc_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/rpc"
)

const (
	page   = "https://app.example.com"
	others = "https://*.test"
)

func browse(t *testing.T, origins []string, method string, header map[string]string) *http.Response {
	t.Helper()
	req := httptest.NewRequest(method, "/teapot", nil)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	stack := rpc.New(rpc.Config{Log: zap.NewNop(), Timeout: time.Minute, Origins: origins})
	mounted(t, stack, stub{}, rpc.Route{Pattern: "POST /teapot", Public: true, Serve: func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusTeapot)
		return nil
	}}).ServeHTTP(w, req)
	return w.Result()
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, origin, method, headers string
		allowed                       bool
	}{
		{"Connect", page, "POST", "connect-protocol-version,content-type", true},
		{"Connect GET with a key", page, "GET", "authorization,connect-protocol-version", true},
		{"gRPC-Web", page, "POST", "content-type,grpc-timeout,x-grpc-web,x-user-agent", true},
		{"with a trace and an id", page, "POST", "authorization,content-type,traceparent,x-request-id", true},
		{"REST", page, "DELETE", "authorization", true},
		{"REST with a mask", page, "PATCH", "content-type", true},
		{"tus", page, "PATCH", "authorization,content-type,tus-resumable,upload-checksum,upload-offset", true},
		{"tus, creation", page, "POST", "content-type,idempotency-key,tus-resumable,upload-defer-length,upload-length,upload-metadata,x-request-id", true},
		{"tus without PATCH", page, "POST", "tus-resumable,x-http-method-override,x-requested-with", true},
		{"tus, offset", page, "HEAD", "tus-resumable", true},
		{"a condition", page, "GET", "if-match,if-none-match,if-range,range", true},
		{"events", page, "GET", "last-event-id", true},
		{"a pattern", "https://a.test", "POST", "content-type", true},
		{"another origin", "https://evil.example.com", "POST", "content-type", false},
		{"the same name without TLS", "http://app.example.com", "POST", "content-type", false},
		{"an origin that begins alike", page + ".evil.com", "POST", "content-type", false},
		{"no origin at all", "null", "POST", "content-type", false},
		{"another header", page, "POST", "x-internal", false},
		{"another method", page, "TRACE", "", false},
	} {
		header := map[string]string{"Origin": c.origin, "Access-Control-Request-Method": c.method}
		if c.headers != "" {
			header["Access-Control-Request-Headers"] = c.headers
		}
		res := browse(t, []string{page, others}, http.MethodOptions, header)
		allowed := res.Header.Get("Access-Control-Allow-Origin") == c.origin &&
			res.Header.Get("Access-Control-Allow-Methods") == c.method && res.Header.Get("Access-Control-Allow-Headers") == c.headers
		if allowed != c.allowed || res.StatusCode == http.StatusTeapot {
			t.Errorf("%s: status %d, %v, want allowed: %v", c.name, res.StatusCode, res.Header, c.allowed)
		}
		if res.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: cookies are allowed", c.name)
		}
	}
}

func TestCrossOriginReply(t *testing.T) {
	t.Parallel()
	res := browse(t, []string{page}, http.MethodPost, map[string]string{"Origin": page})
	if res.StatusCode != http.StatusTeapot || res.Header.Get("Access-Control-Allow-Origin") != page {
		t.Errorf("status %d, %v", res.StatusCode, res.Header)
	}
	exposed := strings.ToLower(res.Header.Get("Access-Control-Expose-Headers"))
	for _, name := range []string{"grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id", "retry-after",
		"etag", "content-range", "content-disposition", "repr-digest", "location", "tus-resumable", "tus-version", "tus-extension", "tus-max-size",
		"tus-checksum-algorithm", "upload-offset", "upload-length", "upload-metadata", "upload-defer-length", "upload-expires"} {
		if !strings.Contains(exposed, name) {
			t.Errorf("%s is not exposed: %s", name, exposed)
		}
	}
	if !strings.Contains(strings.Join(res.Header.Values("Vary"), ","), "Origin") {
		t.Error("caches are not told that the reply depends on the origin")
	}

	for _, refused := range [][]string{nil, {"https://else.example.com"}} {
		res := browse(t, refused, http.MethodPost, map[string]string{"Origin": page})
		if got := res.Header.Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("with %v, %s is allowed", refused, got)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	res := browse(t, nil, http.MethodGet, nil)
	for name, want := range map[string]string{
		"X-Content-Type-Options":    "nosniff",
		"Referrer-Policy":           "no-referrer",
		"Content-Security-Policy":   "default-src 'none'; frame-ancestors 'none'",
		"Strict-Transport-Security": "", // Not over plain HTTP.
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
