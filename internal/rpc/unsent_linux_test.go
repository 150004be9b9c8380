package rpc_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/rpc"
)

// The system holds little for a connection whose client reads nothing, with TLS or without.
func TestLittleIsUnsent(t *testing.T) {
	t.Parallel()
	stack := rpc.New(rpc.Config{Log: zap.NewNop(), Timeout: time.Minute})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	held := func(wrap func(net.Conn) net.Conn) (n int) {
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		if err := client.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		stack.ConnContext(context.Background(), wrap(conn))
		_ = conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		for err == nil {
			var written int
			written, err = conn.Write(make([]byte, 16<<10))
			n += written
		}
		return n
	}
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"plain": func(c net.Conn) net.Conn { return c }, "TLS": func(c net.Conn) net.Conn { return tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12}) },
	} {
		if n := held(wrap); n > 512<<10 {
			t.Errorf("%s: %d bytes are held", name, n)
		}
	}
}
