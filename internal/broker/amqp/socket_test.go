package amqp

import (
	"errors"
	"net"
	"testing"
	"time"
)

// brokenConn is a connection on which no write succeeds.
type brokenConn struct {
	net.Conn
	closed chan struct{}
}

var errBroken = errors.New("broken")

func (c *brokenConn) Write([]byte) (int, error)        { return 0, errBroken }
func (c *brokenConn) SetWriteDeadline(time.Time) error { return nil }
func (c *brokenConn) Close() error                     { close(c.closed); return nil }

// TestLateWriteErrorClosesConnection wants the end of a connection to be seen though nobody waits for the write that failed.
func TestLateWriteErrorClosesConnection(t *testing.T) {
	t.Parallel()
	conn := &brokenConn{closed: make(chan struct{})}
	s := newSocket(conn)
	if _, err := s.Write([]byte("ack")); err != nil {
		t.Fatalf("the write waited for the network: %v", err)
	}
	select {
	case <-conn.closed:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is open after a write failed")
	}
	if _, err := s.Write([]byte("ack")); !errors.Is(err, errBroken) {
		t.Errorf("a write after one that failed: %v", err)
	}
}
