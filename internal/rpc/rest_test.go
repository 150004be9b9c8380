package rpc_test

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

func TestUnknownQueryParametersAreIgnored(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{}, time.Minute)
	if res, b := f.do(t, "GET", "/api/v1/queues?nope=1", "", ""); res.StatusCode != 501 || b.Code != "unimplemented" {
		t.Errorf("the call did not reach the stub: %d %v", res.StatusCode, b)
	}
}

// A gzip body may not be larger than any other once it is decompressed, on every path.
func TestGzip(t *testing.T) {
	t.Parallel()
	f := newFixture(t, failing(errs.New(errs.Unimplemented, "reached")), time.Minute)
	packed := func(body string) string {
		var b strings.Builder
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, body)
		_ = w.Close()
		return b.String()
	}
	spaces := func(n int) string { return good + strings.Repeat(" ", n-len(good)) }
	for name, test := range map[string]struct{ body, code string }{
		"right":              {packed(good), "unimplemented"},
		"as large as it may": {packed(spaces(rpc.MaxMessageBytes)), "unimplemented"},
		"too large":          {packed(spaces(rpc.MaxMessageBytes + 1)), "resource_exhausted"},
		"cut off":            {packed(good)[:20], "invalid_argument"},
		"no gzip":            {good, "invalid_argument"},
	} {
		for path, method := range map[string]string{procedure: "POST", route: "POST", "/api/v1/queues/orders": "PATCH"} {
			t.Run(name+" "+path, func(t *testing.T) {
				t.Parallel()
				req, _ := http.NewRequest(method, f.url+path, strings.NewReader(test.body))
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Content-Encoding", "gzip")
				if res, b := f.send(t, req); b.Code != test.code {
					t.Errorf("got %d %v, want %s", res.StatusCode, b, test.code)
				}
			})
		}
	}
}

// The largest possible message is larger as JSON: base64 uses four bytes for three.
func TestLargestReplyOverREST(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{get: func(context.Context, *messagev1.GetMessageRequest) (*messagev1.WaitingMessage, error) {
		return &messagev1.WaitingMessage{Payload: make([]byte, 3<<20), Attributes: map[string]string{"escaped": strings.Repeat("\x01", 96<<10)}}, nil
	}}, time.Minute)
	for _, encoding := range []string{"identity", "gzip"} {
		req, _ := http.NewRequest("GET", f.url+"/api/v1/messages/01a207b7-cfee-74eb-a938-89f827930982", nil)
		req.Header.Set("Accept-Encoding", encoding)
		if res, b := f.send(t, req); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %v", encoding, res.StatusCode, b)
		}
	}
}
