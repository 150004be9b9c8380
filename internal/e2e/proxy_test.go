package e2e

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands in front of a server of the tests and simulates faults of the network. It cuts off connections until it is
// opened.
type proxy struct {
	listener net.Listener
	target   string
	tap      func() *tapped // returns what a new connection is copied to; nil for none
	opened   atomic.Bool
	muted    atomic.Bool

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// newProxy puts a proxy in front of the server of a URL, and returns the URL of the proxy.
func newProxy(t testing.TB, raw string) (p *proxy, through string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p = &proxy{listener: listener, target: u.Host, conns: map[net.Conn]bool{}}
	u.Host = listener.Addr().String()
	go p.accept()
	return p, u.String()
}

func (p *proxy) open() { p.opened.Store(true) }

// partition drops all traffic for a while, and then cuts every connection.
func (p *proxy) partition() {
	p.muted.Store(true)
	<-time.After(100 * time.Millisecond)
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.muted.Store(false)
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.serve(client)
	}
}

func (p *proxy) serve(client net.Conn) {
	defer p.track(client)()
	if !p.opened.Load() {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.track(server)()
	sent := io.Reader(client)
	if p.tap != nil {
		tap := p.tap()
		defer tap.close()
		sent = io.TeeReader(client, tap)
	}
	go func() {
		_, _ = io.Copy(muting{p, server}, sent)
		_ = server.Close()
	}()
	_, _ = io.Copy(muting{p, client}, server)
}

// track registers a connection for partition. The function that it returns closes the connection.
func (p *proxy) track(conn net.Conn) (untrack func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, conn)
		_ = conn.Close()
	}
}

// muting is a writer to a connection, which drops what the proxy does not let through.
type muting struct {
	proxy *proxy
	conn  net.Conn
}

func (m muting) Write(b []byte) (int, error) {
	if m.proxy.muted.Load() {
		return len(b), nil
	}
	return m.conn.Write(b)
}
