package amqp

import (
	"net"
	"sync"
	"time"
)

const (
	// writeTimeout is how long a server may read nothing while the client has something to write. It is shorter than
	// callLimit, so that the call that is stuck learns why.
	writeTimeout = 4 * time.Second
	// maxHeld is how much a corked socket holds back, in bytes.
	maxHeld = 64 << 10
)

// socket is a network connection with two abilities that the AMQP library wants in its own.
//
// A write that is stuck fails: the library holds its locks while it writes, so that it could not even close.
//
// Writes can be held back, to be sent together: the library sends each publication by a system call of its own, which
// costs more than all else about a small one, on both sides.
type socket struct {
	net.Conn

	mu     sync.Mutex
	corked bool
	held   []byte
}

func newSocket(conn net.Conn) *socket { return &socket{Conn: conn} }

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.corked && len(s.held)+len(p) <= maxHeld {
		s.held = append(s.held, p...)
		return len(p), nil
	}
	if err := s.flush(); err != nil {
		return 0, err
	}
	return s.send(p)
}

// cork begins to hold writes back.
func (s *socket) cork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = true
}

// uncork sends what was held back.
func (s *socket) uncork() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = false
	return s.flush()
}

func (s *socket) flush() error {
	if len(s.held) == 0 {
		return nil
	}
	_, err := s.send(s.held)
	s.held = s.held[:0]
	return err
}

func (s *socket) send(p []byte) (int, error) {
	if err := s.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := s.Conn.Write(p)
	if err != nil {
		_ = s.Close() // A frame may be torn: nothing may follow it.
	}
	return n, err
}
