package rpc_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
)

func TestLine(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for protocol, path := range map[string]string{"connect": procedure, "rest": route} {
		f := newFixture(t, stub{publish: answer}, time.Minute)
		req, _ := http.NewRequest("POST", f.url+path, strings.NewReader(good))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Traceparent", parent)
		res, err := f.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Accept-Encoding"); protocol == "rest" && got != "" {
			t.Errorf("REST reply with Accept-Encoding %q", got)
		}
		line := f.line(t)
		for key, want := range map[string]any{
			"method": "POST", "path": path, "protocol": protocol, "code": "ok", "status": int64(200), "level": zapcore.InfoLevel,
			"request_id": res.Header.Get("X-Request-Id"), "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
		} {
			if line[key] != want {
				t.Errorf("%s: %s is %v, want %v", protocol, key, line[key], want)
			}
		}
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, time.Minute)
	for _, test := range []struct {
		sent string
		kept bool
	}{
		{"abc-123._Z", true}, {strings.Repeat("a", 128), true}, {strings.Repeat("a", 129), false}, {"a b", false}, {"a\"b", false}, {"é", false}, {"", false},
	} {
		req, _ := http.NewRequest("POST", f.url+route, strings.NewReader(good))
		req.Header.Set("Content-Type", "application/json")
		if test.sent != "" {
			req.Header.Set("X-Request-Id", test.sent)
		}
		res, err := f.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		got := res.Header.Get("X-Request-Id")
		if got == "" || (got == test.sent) != test.kept {
			t.Errorf("sent %q, got %q", test.sent, got)
		}
		if !bytes.Contains(data, []byte(got)) {
			t.Errorf("the handler saw another id than %q: %s", got, data)
		}
	}
}
