package rpc

import (
	"net"

	"golang.org/x/sys/unix"
)

// mostUnsent is how many bytes of replies the system holds for a connection beyond those that are on their way.
const mostUnsent = 256 << 10

// limitUnsent limits what the system holds for a connection. Otherwise that is some MiB where the client is slow, and the system takes no
// more before a third of it is sent: a client that reads all the time would look as if it took nothing for a minute.
func limitUnsent(conn net.Conn) {
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = wrapped.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, mostUnsent)
	})
}
