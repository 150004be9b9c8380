package amqp

import (
	"bytes"
	"encoding/binary"
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

// TestLateWriteErrorClosesConnection expects the end of a connection to be noticed though nobody waits for the failed write.
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

// slowConn takes a moment for each write and records all of them.
type slowConn struct {
	net.Conn
	written bytes.Buffer
	largest int
}

func (c *slowConn) Write(p []byte) (int, error) {
	<-time.After(time.Millisecond)
	c.largest = max(c.largest, len(p))
	return c.written.Write(p)
}
func (c *slowConn) SetWriteDeadline(time.Time) error { return nil }

// TestSocketKeepsOrderAndHoldsLittle writes faster than the network takes it.
func TestSocketKeepsOrderAndHoldsLittle(t *testing.T) {
	t.Parallel()
	conn := &slowConn{}
	s := newSocket(conn)
	var want []byte
	for n := range uint64(2000) {
		frame := binary.BigEndian.AppendUint64(make([]byte, 0, 4<<10), n)[:4<<10]
		want = append(want, frame...)
		if _, err := s.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
	if !bytes.Equal(conn.written.Bytes(), want) {
		t.Errorf("%d bytes were sent, not the %d that were written, or not in their order", conn.written.Len(), len(want))
	}
	if conn.largest > maxHeld {
		t.Errorf("%d bytes were held back", conn.largest)
	}
}
