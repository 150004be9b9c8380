package rpc_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2"

	"plinth/internal/rpc"
)

// startServer serves handler on the production server, and returns its address.
func startServer(t *testing.T, handler http.Handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(handler, zap.NewNop())
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
	return listener.Addr().String()
}

// TestHTTP2ByPriorKnowledge sends frames: the server must accept them without an upgrade, and announce its limits.
func TestHTTP2ByPriorKnowledge(t *testing.T) {
	t.Parallel()
	conn, err := net.Dial("tcp", startServer(t, http.NotFoundHandler()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, bufio.NewReader(conn))
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	ping := [8]byte{1, 2, 3}
	if err := framer.WritePing(false, ping); err != nil {
		t.Fatal(err)
	}
	limits := map[http2.SettingID]uint32{}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			_ = frame.ForeachSetting(func(s http2.Setting) error {
				limits[s.ID] = s.Val
				return nil
			})
			continue
		case *http2.PingFrame:
			if !frame.IsAck() || frame.Data != ping {
				t.Errorf("the ping was answered by %v", frame)
			}
		default:
			continue
		}
		break
	}
	if limits[http2.SettingMaxConcurrentStreams] != 1000 || limits[http2.SettingMaxHeaderListSize] < 64<<10 ||
		limits[http2.SettingMaxHeaderListSize] > 80<<10 {
		t.Errorf("limits %v", limits)
	}
}

func TestLimitsOfTheServer(t *testing.T) {
	t.Parallel()
	server := rpc.NewServer(nil, zap.NewNop())
	if server.ReadTimeout != 0 || server.WriteTimeout != 0 {
		t.Error("a timeout of the whole server cuts streams")
	}
	if server.ReadHeaderTimeout == 0 || server.IdleTimeout == 0 {
		t.Error("slow headers and idle connections are held for ever")
	}
}
