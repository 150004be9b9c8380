package blobtest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Fault is what happens to a request in place of what the server would do. The zero Fault leaves it alone.
type Fault struct {
	Status int    // answer this at once, with Body
	Body   string // likewise
	// CutUp resets the connection after so many bytes of the request's body, CutDown after so many of the reply's. Negative is
	// before the first.
	CutUp, CutDown int64
	// Lost is called once the server has answered, and then the connection is reset: it was done, and nobody knows.
	Lost func()
}

// Proxy stands before a server.
type Proxy struct {
	Endpoint string
	Requests atomic.Int64 // that came so far

	mu    sync.Mutex
	fault func(r *http.Request) Fault
}

// Proxy starts a proxy before the server. It ends with the test.
func (s *Server) Proxy(t testing.TB) *Proxy {
	t.Helper()
	target, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p, silent := &Proxy{}, log.New(io.Discard, "", 0)
	pass := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // It is signed.
		},
		ModifyResponse: func(res *http.Response) error {
			f, _ := res.Request.Context().Value(faultKey{}).(Fault)
			if f.CutDown != 0 {
				res.Body = &cut{res.Body, max(f.CutDown, 0)}
			}
			if f.Lost != nil {
				f.Lost()
				return errCut
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { reset(w) },
		ErrorLog:     silent, // Cut connections are what it is for.
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.Requests.Add(1)
		p.serve(w, r, pass)
	}))
	server.Config.ErrorLog = silent
	server.Start()
	t.Cleanup(server.Close)
	p.Endpoint = server.URL
	return p
}

// Set has fault decide on each request from now on; nil leaves all alone.
func (p *Proxy) Set(fault func(r *http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// Times returns a function for Set that does f to the first n requests that match.
func Times(n int64, match func(r *http.Request) bool, f Fault) func(r *http.Request) Fault {
	var left atomic.Int64
	left.Store(n)
	return func(r *http.Request) Fault {
		if match(r) && left.Add(-1) >= 0 {
			return f
		}
		return Fault{}
	}
}

type faultKey struct{}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	p.mu.Lock()
	decide := p.fault
	p.mu.Unlock()
	var f Fault
	if decide != nil {
		f = decide(r)
	}
	switch {
	case f.Status != 0:
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
	case f.CutUp != 0:
		_, _ = io.CopyN(io.Discard, r.Body, max(f.CutUp, 0))
		reset(w)
	default:
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), faultKey{}, f)))
	}
}

// reset ends a connection without a farewell.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

var errCut = errors.New("cut")

// cut is a body that breaks off.
type cut struct {
	io.ReadCloser
	left int64
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errCut
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}
