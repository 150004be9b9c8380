package amqp

import (
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// writeTimeout is how long a server may read nothing while the client has something to write. It is shorter than
	// callLimit, so that the call that is stuck learns why.
	writeTimeout = 4 * time.Second
	// maxHeld is how much a socket holds back, in bytes.
	maxHeld = 64 << 10
)

// socket is a network connection with two abilities that the AMQP library wants in its own.
//
// A write that is stuck fails: the library holds its locks while it writes, so that it could not even close.
//
// What is written at about the same time is sent together: the library sends each publication and each ack by a system call
// of its own, which costs more than all else about a small one, on both sides. A write that fails afterwards closes the
// connection, which the library's reader learns.
type socket struct {
	net.Conn

	mu   sync.Mutex
	held []byte
	err  error // of the first write that failed: a frame may be torn, nothing may follow it
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

// flushSoon sends what is held back, after those who are about to write had their turn: callers come in flocks, and one
// confirm or delivery lets many of them go on.
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
