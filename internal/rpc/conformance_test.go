package rpc_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
)

// The conformance suite itself is run by testdata/conformance/run. These tests cover promises made for its sake.

// TestErrorsBeforeAnRPCToConnectClients compares the code in an error's body with the one that a Connect client derives from
// the HTTP status alone.
func TestErrorsBeforeAnRPCToConnectClients(t *testing.T) {
	t.Parallel()
	const jsonType = "application/json"
	for _, test := range []struct {
		name, method, path, contentType, body string
		status                                int
		code, logged                          string
		details                               int
	}{
		{"unknown procedure", "POST", "/plinth.message.v1.MessageService/Nope", jsonType, "{}", 404, "unimplemented", "not_found", 0},
		{"wrong method", "DELETE", procedure, jsonType, good, 405, "unknown", "unimplemented", 0},
		{"wrong codec", "POST", procedure, "application/foo", good, 415, "unknown", "invalid_argument", 0},
		{"broken JSON", "POST", procedure, jsonType, `{"queue":`, 400, "invalid_argument", "invalid_argument", 2},
		{"wrong type", "POST", procedure, jsonType, `{"queue":5}`, 400, "invalid_argument", "invalid_argument", 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, stub{publish: answer}, time.Minute)
			f.http.Transport = withHeader{f.http.Transport, "Connect-Protocol-Version", "1"}
			res, b := f.do(t, test.method, test.path, test.contentType, test.body)
			if res.StatusCode != test.status || b.Code != test.code || b.Message == "" {
				t.Errorf("got %d %s %q, want %d %s", res.StatusCode, b.Code, b.Message, test.status, test.code)
			}
			if len(b.Details) != test.details {
				t.Errorf("details %v, want %d", b.Details, test.details)
			}
			if res.Header.Get("X-Request-Id") == "" {
				t.Error("no request id")
			}
			if line := f.line(t); line["code"] != test.logged || line["level"] != zapcore.InfoLevel {
				t.Errorf("line %v, want code %s", line, test.logged)
			}
		})
	}
}

// withHeader sends a header with each request.
type withHeader struct {
	http.RoundTripper
	name, value string
}

func (h withHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(h.name, h.value)
	return h.RoundTripper.RoundTrip(r)
}

// TestErrorsThatGRPCDoesNotRead checks for a content type that no gRPC client takes for a Connect error.
func TestErrorsThatGRPCDoesNotRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, time.Minute)
	for _, test := range []struct {
		name, method, contentType string
		status                    int
		code                      string
	}{
		{"a content type of no protocol", "POST", "text/csv", 415, "unknown"},
		{"a codec of none", "POST", "application/grpc+foo", 415, "unknown"},
		{"wrong method", "DELETE", "application/grpc", 405, "unimplemented"},
	} {
		res, b := f.do(t, test.method, procedure, test.contentType, good)
		if res.StatusCode != test.status || b.Code != test.code || b.Message == "" {
			t.Errorf("%s: got %d %s %q, want %d %s", test.name, res.StatusCode, b.Code, b.Message, test.status, test.code)
		}
		if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, "application/json;") {
			t.Errorf("%s: content type %q", test.name, got)
		}
	}
}
