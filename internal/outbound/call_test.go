package outbound_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/outbound"
	"plinth/internal/outbound/outboundtest"
)

// TestRequest: method, body, headers and trace arrive as they are given.
func TestRequest(t *testing.T) {
	t.Parallel()
	server := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s %d %q %s %s %s", r.Method, r.RequestURI, body, r.ContentLength, r.Header["X-A"], r.Header.Get("Traceparent"),
			r.Header.Get("Tracestate"), r.Header.Get("User-Agent"))
	})
	r := get(t, server.URL+"/path?q=1")
	r.Method, r.Body, r.Header = http.MethodPut, []byte("hello"), http.Header{"X-A": {"1"}}
	parent := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	reply, err := newClient(t, "127.0.0.0/8").Do(observe.WithTrace(context.Background(), parent, "a=b"), r)
	wantStatus(t, reply, err, http.StatusOK)
	if want := `PUT /path?q=1 hello 5 ["1"] ` + parent + " a=b plinth"; string(reply.Body) != want || reply.Attempts != 1 {
		t.Errorf("%q after %d attempts, want %q", reply.Body, reply.Attempts, want)
	}
	if len(r.Header) != 1 {
		t.Errorf("the caller's header became %v", r.Header)
	}
}

func TestParseHeaders(t *testing.T) {
	t.Parallel()
	header, err := outbound.ParseHeaders("headers", map[string]string{"x-a": "1", "Authorization": "Bearer x"})
	if err != nil || header.Get("X-A") != "1" || header.Get("Authorization") != "Bearer x" {
		t.Errorf("%v, %v", header, err)
	}
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprint("x-", i)] = "1"
	}
	for _, bad := range []map[string]string{
		many, {"a b": "1"}, {"": "1"}, {"x": "a\r\nY: b"}, {"host": "h"}, {"Content-Length": "1"}, {"transfer-encoding": "chunked"}, {"connection": "close"},
		{"webhook-signature": "v1,x"}, {"Proxy-Authorization": "x"}, {"x-a": "1", "X-A": "2"}, {"x": strings.Repeat("x", 9000)}, {"traceparent": "x"},
	} {
		if _, err := outbound.ParseHeaders("http.headers", bad); !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), "http.headers: ") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestSwitchingProtocols: an answer that turns the connection into something else ends the call, although that stays open.
func TestSwitchingProtocols(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		<-release
	})
	t.Cleanup(func() { close(release) })
	r := get(t, server.URL)
	r.Timeout = 200 * time.Millisecond
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		reply, err := newClient(t, "127.0.0.0/8").Do(context.Background(), r)
		wantStatus(t, reply, err, http.StatusSwitchingProtocols)
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the call does not end")
	}
}

// TestLimits: no host takes more than the time and the memory that a call has.
func TestLimits(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow-header":
			<-release
		case "/slow-body":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			<-release
		case "/drip":
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("x"))
				w.(http.Flusher).Flush()
				select {
				case <-release:
				case <-time.After(5 * time.Millisecond):
				}
			}
		case "/headers":
			for i := range 1000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1000))
			}
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		case "/exact":
			_, _ = w.Write(make([]byte, 1024))
		}
	})
	t.Cleanup(func() { close(release) })
	client := newClient(t, "127.0.0.0/8")
	for _, path := range []string{"/slow-header", "/slow-body", "/drip"} {
		r := get(t, server.URL+path)
		r.Timeout, r.MaxReply = 200*time.Millisecond, 1<<20
		start := time.Now()
		if _, err := client.Do(context.Background(), r); !errs.Is(err, errs.DeadlineExceeded) || !errs.Retryable(err) {
			t.Errorf("%s: %v, want that there is no reply in time", path, err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s took %s", path, took)
		}
	}
	if _, err := client.Do(context.Background(), get(t, server.URL+"/headers")); !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v, want that headers of 1 MB are not taken", err)
	}
	reply, err := client.Do(context.Background(), get(t, server.URL+"/endless"))
	if wantStatus(t, reply, err, http.StatusOK); len(reply.Body) != 1024 || !reply.Truncated {
		t.Errorf("%d bytes, truncated %t", len(reply.Body), reply.Truncated)
	}
	reply, err = client.Do(context.Background(), get(t, server.URL+"/exact"))
	if wantStatus(t, reply, err, http.StatusOK); len(reply.Body) != 1024 || reply.Truncated {
		t.Errorf("%d bytes, truncated %t", len(reply.Body), reply.Truncated)
	}
	r := get(t, server.URL)
	r.Method, r.Body = http.MethodPost, make([]byte, outbound.MaxBody+1)
	if _, err := client.Do(context.Background(), r); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("%v, want that the body is too large", err)
	}
}

// TestTimeout: the client's is the most that a request may ask for.
func TestTimeout(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := serve(t, "127.0.0.1:0", func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
	client := newClient(t, "127.0.0.0/8", func(c *outbound.Config) { c.Timeout = 100 * time.Millisecond })
	r := get(t, server.URL)
	r.Timeout = time.Hour
	if _, err := client.Do(context.Background(), r); !errs.Is(err, errs.DeadlineExceeded) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := client.Do(ctx, r); !errs.Is(err, errs.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	r.Retry = outbound.Retry{Attempts: 3, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond}
	if _, err := client.Do(ctx, r); !errs.Is(err, errs.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
}

// TestErrors: each failure has its kind, says what is wrong, and tells no secret.
func TestErrors(t *testing.T) {
	t.Parallel()
	closed := serve(t, "127.0.0.1:0", ok)
	closed.Close()
	plain := serve(t, "127.0.0.1:0", ok)
	secure := httptest.NewTLSServer(http.HandlerFunc(ok))
	t.Cleanup(secure.Close)
	broken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broken.Close() })
	go func() {
		for {
			conn, err := broken.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadString('\n')
			_ = conn.Close()
		}
	}()
	dns := &outboundtest.Names{}
	client := newClient(t, "127.0.0.0/8", func(c *outbound.Config) { c.Resolver = dns.Resolver(t) })
	for address, part := range map[string]string{
		closed.URL:                         "refuses connections",
		"http://nowhere.example":           "no address",
		secure.URL:                         "certificate",
		"https" + plain.URL[len("http"):]:  "TLS",
		"http://" + broken.Addr().String(): "the call failed",
	} {
		u, _ := url.Parse(address + "/path-secret?key=query-secret")
		u.User = url.UserPassword("user", "password-secret")
		_, err := client.Do(context.Background(), outbound.Request{
			Method: http.MethodPost, URL: u, Body: []byte("body-secret"), Header: http.Header{"Authorization": {"header-secret"}},
		})
		if !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want one that says %q", address, err, part)
		}
	}
}

// TestTLS calls a server with a certificate, over HTTP/2.
func TestTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/plain" {
			http.Redirect(w, r, "http://"+r.Host, http.StatusFound)
		}
		_, _ = io.WriteString(w, r.Proto)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	client := newClient(t, "127.0.0.0/8", func(c *outbound.Config) { c.TLS = &tls.Config{RootCAs: roots} })
	reply, err := client.Do(context.Background(), get(t, server.URL))
	if wantStatus(t, reply, err, http.StatusOK); string(reply.Body) != "HTTP/2.0" {
		t.Errorf("by %s", reply.Body)
	}
	r := get(t, server.URL+"/plain")
	r.Redirects = 1
	if _, err := client.Do(context.Background(), r); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("%v, want that a redirect from https to http is refused", err)
	}
}

// TestRetry: a call is made again where the request says so and it may help, and in no other case.
func TestRetry(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	var bodies sync.Map
	server := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies.Store(string(body), true)
		if r.URL.Path == "/later" {
			w.Header().Set("Retry-After", "3600")
		}
		w.WriteHeader(int(status.Load()))
	})
	call := func(attempts int, path string, code int64) *outbound.Reply {
		t.Helper()
		client := newClient(t, "127.0.0.0/8") // with a breaker that knows nothing
		status.Store(code)
		r := get(t, server.URL+path)
		r.Method, r.Body = http.MethodPost, []byte("hello")
		r.Retry = outbound.Retry{Attempts: attempts, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}
		before := server.hits.Load()
		reply, err := client.Do(context.Background(), r)
		wantStatus(t, reply, err, int(code))
		if n := int(server.hits.Load() - before); n != reply.Attempts {
			t.Errorf("%d calls in %d attempts", n, reply.Attempts)
		}
		return reply
	}
	for _, c := range []struct {
		attempts int
		path     string
		status   int64
		want     int
	}{
		{0, "/", 503, 1}, {1, "/", 503, 1}, {3, "/", 503, 3}, {3, "/later", 429, 3}, {3, "/", 500, 1}, {3, "/", 404, 1}, {3, "/", 200, 1},
	} {
		if reply := call(c.attempts, c.path, c.status); reply.Attempts != c.want {
			t.Errorf("%+v: %d attempts", c, reply.Attempts)
		}
	}
	bodies.Range(func(body, _ any) bool {
		if body != "hello" {
			t.Errorf("an attempt had the body %q", body)
		}
		return true
	})
}

// TestRetryBudget: when all fails, retries are few among the calls.
func TestRetryBudget(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.WriteHeader(http.StatusTooManyRequests) // which the breaker does not mind
	})
	client := newClient(t, "127.0.0.0/8")
	const calls = 60
	var done sync.WaitGroup
	for range calls {
		done.Go(func() {
			r := get(t, server.URL)
			r.Retry = outbound.Retry{Attempts: 5, MinBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond}
			if _, err := client.Do(context.Background(), r); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, func() bool { return server.hits.Load() == calls })
	close(release)
	done.Wait()
	if n := server.hits.Load(); n > 4*calls {
		t.Errorf("%d attempts of %d calls", n, calls)
	}
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it has not come to pass")
		}
	}
}

// TestBreaker: a host that fails is left alone by the tenant whose calls fail, and by no other.
func TestBreaker(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(http.StatusServiceUnavailable)
	server := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	client := newClient(t, "127.0.0.0/8")
	one, other := auth.AsService(context.Background(), "one"), auth.AsService(context.Background(), "other")
	for range 10 {
		reply, err := client.Do(one, get(t, server.URL))
		wantStatus(t, reply, err, http.StatusServiceUnavailable)
	}
	before := server.hits.Load()
	_, err := client.Do(one, get(t, server.URL+"/another"))
	e, isOurs := err.(*errs.Error)
	if !isOurs || e.Kind != errs.Unavailable || e.Reason != "BREAKER_OPEN" || e.RetryAfter <= 0 || e.RetryAfter > 11*time.Second || !errs.Retryable(err) {
		t.Fatalf("%+v, want an open breaker", err)
	}
	if server.hits.Load() != before {
		t.Error("an open breaker lets calls through")
	}
	reply, err := client.Do(other, get(t, server.URL))
	wantStatus(t, reply, err, http.StatusServiceUnavailable)
	status.Store(http.StatusOK)
	until(t, func() bool { _, err := client.Do(one, get(t, server.URL)); return err == nil })
}

// TestMetrics: hosts have metrics of their own up to a bound.
func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	dns := &outboundtest.Names{}
	server := serve(t, "127.0.0.1:0", ok)
	client := newClient(t, "127.0.0.0/8", func(c *outbound.Config) { c.Resolver = dns.Resolver(t) })
	registry.MustRegister(client.Metrics()...)
	reply, err := client.Do(context.Background(), get(t, server.URL))
	wantStatus(t, reply, err, http.StatusOK)
	for i := range 150 {
		_, _ = client.Do(context.Background(), get(t, fmt.Sprintf("http://host-%d.example", i)))
	}
	_, _ = newClient(t, "").Do(context.Background(), get(t, server.URL))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "plinth_outbound_calls_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			key := ""
			for _, l := range m.GetLabel() {
				key += l.GetValue() + " "
			}
			counts[key] = m.GetCounter().GetValue()
		}
	}
	if len(counts) != 101 || counts["other error "] != 51 || counts[server.Listener.Addr().String()+" 2xx "] != 1 {
		t.Errorf("%d series, others %v: %v", len(counts), counts["other error "], counts)
	}
}

// TestConnections: calls that follow each other use one connection.
func TestConnections(t *testing.T) {
	t.Parallel()
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	client := newClient(t, "127.0.0.0/8")
	for range 5 {
		reply, err := client.Do(context.Background(), get(t, server.URL))
		wantStatus(t, reply, err, http.StatusOK)
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for 5 calls", n)
	}
}
