package pg

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// silenceQuiet is how long a reply may take until the server is asked whether it is there, each time.
	silenceQuiet = 2 * time.Second
	// silenceAnswer is how long a server that is there takes to answer.
	silenceAnswer = 2 * time.Second
	// silenceTrust is how long its answer, or that there was none, is taken for the next.
	silenceTrust = time.Second
)

// sslRequest is the first message of a client that wants TLS.
var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

// errSilent is the error of reads from a server that does not answer, and of connects to it.
var errSilent = errors.New("the server is silent")

// silence notices a server that went away without closing its connections. TCP alone takes minutes for that, and cannot see
// behind a proxy. While a connection waits for a reply, the server is asked on another one whether it is there, so a slow
// statement can take its time. If there is no answer, the connection is closed and the pool reset. New connections then fail
// until the server answers again.
//
// It is meant for connections that read only what they asked for: one that listens would have the server asked for ever.
type silence struct {
	dial    pgconn.DialFunc
	found   func()   // called when a server is found silent; must not block
	servers sync.Map // of *server by network and address
}

// connect is a pgconn.DialFunc. What it returns lies beneath TLS.
func (s *silence) connect(ctx context.Context, network, address string) (net.Conn, error) {
	unknown := &server{silence: s, network: network, address: address}
	unknown.last.Store(&conclusion{})
	known, _ := s.servers.LoadOrStore(network+" "+address, unknown)
	srv := known.(*server)
	if srv.last.Load().silent && !srv.answers() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errSilent}
	}
	conn, err := s.dial(ctx, network, address)
	if err != nil {
		if nothingCame(err) {
			srv.conclude(true)
		}
		return nil, err
	}
	return &watched{Conn: conn, server: srv}, nil
}

// server is one address of a server.
type server struct {
	*silence
	network, address string
	asking           sync.Mutex
	last             atomic.Pointer[conclusion]
}

type conclusion struct {
	at     time.Time
	silent bool
}

func (s *server) conclude(silent bool) {
	s.last.Store(&conclusion{time.Now(), silent})
	if silent {
		s.found()
	}
}

// answers asks the server whether it is there, unless that is known. However many callers there are, it is asked once.
func (s *server) answers() bool {
	s.asking.Lock()
	defer s.asking.Unlock()
	if time.Since(s.last.Load().at) > silenceTrust {
		s.conclude(nothingCame(s.ask()))
	}
	return !s.last.Load().silent
}

// ask sends sslRequest, which the server answers with one byte, without a login and without a line in its log.
func (s *server) ask() error {
	deadline := time.Now().Add(silenceAnswer)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	conn, err := s.dial(ctx, s.network, s.address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write(sslRequest); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// nothingCame reports whether a network error means that packets get no answer. A connection that is refused or closed is
// an answer: poolers that shut down take no new clients and serve those that they have.
func nothingCame(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout() || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// watched is a connection that is closed if the server turns out to be silent.
type watched struct {
	net.Conn
	server *server
	lost   atomic.Bool
}

func (w *watched) Read(b []byte) (int, error) {
	done := make(chan struct{})
	timer := time.AfterFunc(silenceQuiet, func() { w.watch(done) })
	n, err := w.Conn.Read(b)
	timer.Stop()
	close(done)
	if err != nil && w.lost.Load() {
		err = &net.OpError{Op: "read", Net: w.server.network, Err: errSilent}
	}
	return n, err
}

// watch asks the server again and again, until done is closed or there is no answer.
func (w *watched) watch(done <-chan struct{}) {
	for w.server.answers() {
		select {
		case <-done:
			return
		case <-time.After(silenceQuiet):
		}
	}
	select {
	case <-done:
	default:
		w.lost.Store(true)
		_ = w.Conn.Close()
	}
}
