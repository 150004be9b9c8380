package outbound_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/outbound"
)

// newClient returns a client that may call networks beside public ones. change may change its configuration.
func newClient(t *testing.T, allowed string, change ...func(*outbound.Config)) *outbound.Client {
	t.Helper()
	config := outbound.Config{Timeout: 20 * time.Second}
	if allowed != "" {
		config.Allowed = []netip.Prefix{netip.MustParsePrefix(allowed)}
	}
	for _, f := range change {
		f(&config)
	}
	client := outbound.New(config)
	t.Cleanup(client.Close)
	return client
}

// served is a server that counts what it is asked.
type served struct {
	*httptest.Server
	hits atomic.Int64
}

func serve(t *testing.T, address string, handler http.HandlerFunc) *served {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		handler(w, r)
	}))
	_ = s.Listener.Close()
	s.Listener = listener
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }

func get(t *testing.T, address string) outbound.Request {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return outbound.Request{Method: http.MethodGet, URL: u, MaxReply: 1024}
}

func wantStatus(t *testing.T, reply *outbound.Reply, err error, status int) {
	t.Helper()
	if err != nil || reply.StatusCode != status {
		t.Fatalf("%+v, %v, want status %d", reply, err, status)
	}
}

func wantRefused(t *testing.T, err error) {
	t.Helper()
	e, isOurs := err.(*errs.Error)
	if !isOurs || e.Kind != errs.PermissionDenied || e.Reason != "ADDRESS_REFUSED" || errs.Retryable(err) {
		t.Fatalf("%v, want a refused address", err)
	}
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}
