package amqp

import (
	"encoding/binary"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy is a way to RabbitMQ that a test can break.
type proxy struct {
	t      *testing.T
	target string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool // true for those of clients; nil once the proxy is closed
	held     chan struct{}     // nil, or closed when what is held may go on
	wg       sync.WaitGroup
}

// newProxy makes a proxy that does not listen yet, and the URL that leads through it.
func newProxy(t *testing.T, target string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, target: u.Host, listener: reserved, conns: map[net.Conn]bool{}}
	u.Host = reserved.Addr().String()
	if err := reserved.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p, u.String()
}

// listen begins to take connections.
func (p *proxy) listen() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.listener.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(client) })
		}
	})
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.track(client, server) {
		return
	}
	defer p.forget(client, server)
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		ways.Go(func() {
			defer client.Close()
			defer server.Close()
			p.copy(way[0], way[1])
		})
	}
	ways.Wait()
}

func (p *proxy) copy(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if held != nil {
			<-held
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) track(client, server net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	p.conns[client], p.conns[server] = true, false
	return true
}

func (p *proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// cut closes every connection, and takes new ones.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// hold forwards nothing any more, either way, and keeps all connections open, until release forwards what was held.
func (p *proxy) hold() (release func()) {
	held := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	release = sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held = nil
		close(held)
	})
	p.t.Cleanup(release)
	return release
}

// inject sends the clients a method of the server's, on a channel of each; nothing else may be on its way.
func (p *proxy) inject(channel, class, method uint16, arguments ...byte) {
	frame := []byte{1}
	frame = binary.BigEndian.AppendUint16(frame, channel)
	frame = binary.BigEndian.AppendUint32(frame, uint32(4+len(arguments)))
	frame = binary.BigEndian.AppendUint16(frame, class)
	frame = binary.BigEndian.AppendUint16(frame, method)
	frame = append(append(frame, arguments...), 0xCE)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, isClient := range p.conns {
		if isClient {
			_, _ = c.Write(frame)
		}
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.cut()
	p.mu.Lock()
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
}
