package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/blob/blobtest"
)

// fileMemory is the most resident memory of a server, whatever uploads do.
const fileMemory = 256 << 20

// Slow uploads and hostile forms, many of both, take little memory, and others are served meanwhile.
func TestFileMemory(t *testing.T) {
	t.Parallel()
	sys := startSystem(t, with(backends(t, "postgres"), blobtest.New(t).Env()))
	addr := strings.TrimPrefix(sys.url, "http://")
	dial := func(request string) net.Conn {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return nil
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n", request, adminKey)
		return conn
	}
	var sent, slow atomic.Int64
	for i := range 50 { // Each sends 4 MiB of 100, as far as that is read, and then stops.
		go func() {
			conn := dial(fmt.Sprintf("PUT /api/v1/upload/slow-%d", i))
			if conn == nil {
				return
			}
			block, known := bytes.Repeat([]byte("x"), 64<<10), i%2 == 0
			if known {
				_, _ = fmt.Fprintf(conn, "Content-Length: %d\r\n\r\n", 100<<20)
			} else {
				_, _ = fmt.Fprintf(conn, "Transfer-Encoding: chunked\r\n\r\n")
			}
			slow.Add(1)
			for range 64 {
				if !known {
					_, _ = fmt.Fprintf(conn, "%x\r\n", len(block))
				}
				n, err := conn.Write(block)
				if sent.Add(int64(n)); err != nil {
					return
				}
				if !known {
					_, _ = io.WriteString(conn, "\r\n")
				}
			}
		}()
	}
	var attacks sync.WaitGroup
	form := "POST /api/v1/upload"
	part := "Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n"
	for i := range 50 {
		header := [...]string{"A: " + strings.Repeat("x", 1<<20), strings.Repeat("A: x\r\n", 20_000), "A"}[i%3]
		attacks.Go(func() {
			conn := dial(form)
			if conn == nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			body := "--x\r\n" + header
			_, _ = fmt.Fprintf(conn, "%s%x\r\n", part, len(body))
			_, _ = io.WriteString(conn, body)
			if i%3 == 2 {
				return // It never ends, and holds its connection.
			}
			_, _ = io.WriteString(conn, "\r\n0\r\n\r\n")
			reply := make([]byte, 12)
			if _, err := io.ReadFull(conn, reply); err == nil && string(reply) != "HTTP/1.1 400" {
				t.Errorf("a header of %d bytes: %q", len(header), reply)
			}
		})
	}
	attacks.Wait()
	served := 0
	for last, still := int64(-1), 0; still < 10; <-time.After(100 * time.Millisecond) { // Until no more is read.
		if now := sent.Load(); now == last && slow.Load() == 50 {
			still++
		} else {
			last, still = now, 0
		}
		if status := statusOf(sys.url + "/api/v1/files"); status != http.StatusOK {
			t.Errorf("meanwhile a list is answered %d", status)
		}
		served++
	}
	peak := peakOf(t, sys.server)
	t.Logf("%d MiB are resident at most; %d MiB were taken of 50 uploads; %d other calls were served", peak>>20, sent.Load()>>20, served)
	if peak > fileMemory {
		t.Errorf("%d MiB are resident", peak>>20)
	}
	if sent.Load() < 50<<20 {
		t.Errorf("only %d MiB were taken", sent.Load()>>20)
	}
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peakOf returns the most memory of a process that was resident at a time.
func peakOf(t *testing.T, p *process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	match := highWater.FindSubmatch(text)
	if err != nil || match == nil {
		missing(t, "this system does not say how much memory a process has")
	}
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
