package rpc

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// Only so many calls have the rest of their bodies read at a time. The reply of one that has not is sent at once, with its length.
func TestLingeringIsBounded(t *testing.T) {
	t.Parallel()
	s := New(Config{Log: zap.NewNop(), Timeout: time.Minute})
	handler, err := s.Handler(nil, []Route{{Pattern: "POST /ignored", Public: true, Serve: func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, "ok")
		return err
	}}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{Protocols: server.Config.Protocols}}
	for _, test := range []struct{ lingering, length int64 }{{maxLingering - 1, -1}, {maxLingering, 2}} {
		s.lingering.Store(test.lingering)
		res, err := client.Post(server.URL+"/ignored", "", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(text) != "ok" || err != nil || res.ContentLength != test.length {
			t.Errorf("while %d linger: %q %v, of length %d", test.lingering, text, err, res.ContentLength)
		}
	}
	client.CloseIdleConnections()
	server.Close()
	if n := s.lingering.Load(); n != maxLingering {
		t.Errorf("%d linger afterwards", n)
	}
}
