package amqp

import (
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// writeTimeout is how long a server may read nothing while the client has something to write. It is shorter than
	// callLimit, so that a stuck call learns the reason.
	writeTimeout = 4 * time.Second
	// maxHeld is the maximum number of bytes that a socket buffers.
	maxHeld = 64 << 10
)

// socket is a network connection with two features that the AMQP library lacks.
//
// A stuck write fails. The library holds its locks while it writes, so it could not even close the connection otherwise.
//
// Data that is written at about the same time is sent together. The library sends each publication and each ack with a
// system call of its own, which costs more than everything else about a small message, on both sides. If a buffered write
// fails later, the connection is closed, which the library's reader notices.
type socket struct {
	net.Conn

	mu   sync.Mutex
	held []byte
	err  error // of the first failed write: a frame may be incomplete, so nothing may follow it
}

func newSocket(conn net.Conn) *socket { return &socket{Conn: conn} }

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && len(s.held)+len(p) > maxHeld {
		s.flush()
	}
	if s.err != nil {
		return 0, s.err
	}
	if len(s.held) == 0 {
		go s.flushSoon()
	}
	s.held = append(s.held, p...)
	return len(p), nil
}

// flushSoon sends the buffered data after the goroutines that are about to write have had their turn: callers come in
// groups, and one confirm or delivery lets many of them continue.
func (s *socket) flushSoon() {
	runtime.Gosched()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
}

func (s *socket) flush() {
	if len(s.held) == 0 || s.err != nil {
		return
	}
	if s.err = s.SetWriteDeadline(time.Now().Add(writeTimeout)); s.err == nil {
		_, s.err = s.Conn.Write(s.held)
	}
	s.held = s.held[:0]
	if s.err != nil {
		_ = s.Close()
	}
}
