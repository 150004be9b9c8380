package rpc

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"plinth/internal/share"
)

// TestMemoryIsGivenBack does not run beside others, because it looks at the heap of the process.
func TestMemoryIsGivenBack(t *testing.T) {
	const bytes = 256 << 20
	m := newMemory(bytes)
	m.taken.Store(bytes)
	for used := make([]byte, bytes); used != nil; used = nil {
		for i := 0; i < len(used); i += 4096 {
			used[i] = 1
		}
	}
	m.giveBack()
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	if kept := heap.HeapIdle - heap.HeapReleased; kept > bytes/4 {
		t.Errorf("%d MiB are kept of %d", kept>>20, bytes>>20)
	}
	if m.taken.Load() != 0 {
		t.Error("it would be given back again")
	}
}

// A body waits for room, and not for longer than memoryWait.
func TestBodiesWaitForMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(100 << 20)
		const half = 40 << 20
		acquire := func() error { return m.acquire(t.Context(), "acme", half) }
		if err := acquire(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(memoryWait/2, func() { m.Release("acme", half) })
		start := time.Now()
		if err := acquire(); err != nil || time.Since(start) != memoryWait/2 {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		start = time.Now()
		if err := acquire(); !errors.Is(err, errNoMemory) || time.Since(start) != memoryWait {
			t.Errorf("after %s: %v, want %v", time.Since(start), err, errNoMemory)
		}
	})
}

// What is reserved for a call that has ended meanwhile is given back at once.
func TestIntakeThatHasEnded(t *testing.T) {
	t.Parallel()
	m := newMemory(100 << 20)
	b := &intake{ctx: t.Context(), call: &call{memory: m}, owner: "acme"}
	b.end()
	if err := b.reserve(1 << 20); err == nil {
		t.Error("it reserves")
	}
	if m.Used() != 0 {
		t.Errorf("%d bytes are still reserved", m.Used())
	}
}

// A large body is decoded in its owner's turn, a small one at once. A turn ends when the message is there, when more is read, and with
// the call.
func TestTurnsOfLargeBodies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(100 << 20)
		rest := m.decoding.Capacity() - 1
		for range rest + 1 {
			if err := m.decoding.Acquire(t.Context(), share.Nobody, 1, 0); err != nil {
				t.Fatal(err)
			}
		}
		var read []string // of whom bodies were read to their ends
		body := func(owner, kind, text string) *intake {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(text))
			r.Header.Set("Content-Type", kind)
			b := newIntake(t.Context(), &call{request: r, body: r.Body, memory: m, target: &target{rpc: true, method: &method{streams: true}}})
			b.owner = owner
			go func() {
				if _, err := io.Copy(io.Discard, b); err != nil {
					t.Error(err)
				}
				read = append(read, owner)
			}()
			synctest.Wait()
			return b
		}
		large := strings.Repeat("a", 1<<20)
		first, second, other := body("mallory", "", large), body("mallory", "", large), body("acme", "", large)
		body("mallory", "", "small")
		for i, end := range []func(){
			func() { m.decoding.Release(share.Nobody, 1) },
			func() { first.decoded(nil) },
			other.end,
			second.end,
		} {
			if want := []string{"mallory", "mallory", "acme", "mallory"}[:i+1]; !slices.Equal(read, want) {
				t.Errorf("%d: read are bodies of %q, want %q", i, read, want)
			}
			end()
			synctest.Wait()
		}
		message := "\x00\x00\x10\x00\x00" + large
		body("stream", "application/grpc", message+message)
		if used := m.decoding.Used(); used != rest || read[len(read)-1] != "stream" {
			t.Errorf("%d are in their turn, want %d; read are bodies of %q", used, rest, read)
		}
	})
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.7:4000":              "192.0.2.7",
		"[::ffff:192.0.2.7]:4000":     "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:4000": "2001:db8:1:2::/64",
		"[2001:db8:1:2:7::%eth0]:400": "2001:db8:1:2::/64",
		"@":                           "@",
	} {
		if got := network(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}
