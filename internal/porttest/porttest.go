// Package porttest assigns ports to the servers that tests start.
package porttest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Free returns a port of 127.0.0.1 that nobody listens on. It is the test's own until its end, also before the server listens there
// and while it is away: no other test in any process gets it, and neither does a program that asks the system for any port.
func Free(t testing.TB) string {
	t.Helper()
	for {
		port := strconv.Itoa(10_000 + rand.N(20_000)) // Below those that systems assign.
		// The same number of UDP, which no such server uses, is the mark that the port is taken.
		mark, err := net.ListenPacket("udp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			_ = mark.Close()
			continue
		}
		_ = listener.Close()
		t.Cleanup(func() { _ = mark.Close() })
		return port
	}
}
