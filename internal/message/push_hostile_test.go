package message_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/message"
)

// No answer of an endpoint is taken for more than it is, and each that is none is told.
func TestPushHostile(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	for what, test := range map[string]struct {
		answer http.HandlerFunc
		reason string // "" is success
	}{
		"slow":          {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no reply in time"},
		"slow body":     {func(w http.ResponseWriter, r *http.Request) { flush(w, "a"); <-r.Context().Done() }, "no reply in time"},
		"redirect":      {status(307, "Location", "http://10.0.0.1/"), "the answer was 307"},
		"endless":       {endless, ""},
		"huge header":   {status(200, "X-Huge", strings.Repeat("a", 1<<20)), "the call failed"},
		"breaks off":    {func(w http.ResponseWriter, _ *http.Request) { flush(w, "a"); panic(http.ErrAbortHandler) }, "the call failed"},
		"no answer":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "the call failed"},
		"half":          {half, "the call failed"},
		"absurd status": {status(999), "the answer was 999"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				test.answer(w, r)
			}))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.Start()
			t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
			f.wantPushed(t, strings.ReplaceAll(what, " ", "-"), server.URL, test.reason)
		})
	}
	t.Run("certificate of nobody", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewUnstartedServer(http.HandlerFunc(ok))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		t.Cleanup(server.Close)
		f.wantPushed(t, "tls", server.URL, "the certificate is not valid for it")
	})
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		f.wantPushed(t, "nobody", "http://"+unused(t), "refuses connections")
	})
	t.Run("never accepts TLS", func(t *testing.T) {
		t.Parallel()
		f.wantPushed(t, "silent", "https://"+silent(t), "no reply in time")
	})
}

// wantPushed wants what becomes of a message that is pushed once: a dead letter of a reason, or success.
func (f fixture) wantPushed(t *testing.T, queue, url, reason string) {
	t.Helper()
	policy := pushTo(url)
	policy.MaxAttempts, policy.Push.Timeout = 1, 5*time.Second
	if reason == "no reply in time" {
		policy.Push.Timeout = 200 * time.Millisecond
	}
	q := f.pushes(t, queue, policy)
	f.publish(t, q.Name, "x")
	is := f.becomes(t, q.Name, "it is settled and told", func(q message.Queue) bool {
		return isEmpty(q) && (q.Stats.DeadLetters == 1) == (reason != "") && (reason != "" || !q.PushStatus.LastSuccessAt.IsZero()) &&
			(reason == "" || !q.PushStatus.LastErrorAt.IsZero())
	})
	if !strings.Contains(is.PushStatus.LastError, reason) {
		t.Errorf("%+v, want %q", is.PushStatus, reason)
	}
}

func flush(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, text)
	w.(http.Flusher).Flush()
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 1<<16)); err != nil {
			return
		}
	}
}

// half closes the connection within the status line.
func half(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 2")
	_ = conn.Close()
}

// unused returns an address where nobody listens.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr().String()
}

// silent returns an address that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// A breaker that opened is told by every process, leaves what it does not push to others, and closes when the endpoint is back.
func TestPushBreaker(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	var down atomic.Bool
	down.Store(true)
	url, calls := endpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	policy := pushTo(url)
	policy.MaxAttempts, policy.MinBackoff, policy.MaxBackoff = 1000, time.Millisecond, time.Millisecond
	q := f.pushes(t, "q", policy)
	for range 20 {
		f.publish(t, q.Name, "x")
	}
	other := f.process(t, message.Limits{}) // It knows no more than the table.
	for ctx := within(t); ; <-time.After(20 * time.Millisecond) {
		is, err := other.GetQueue(within(t), q.Name)
		if err != nil || ctx.Err() != nil {
			t.Fatalf("it is not told: %+v %v", is.PushStatus, err)
		}
		if s := is.PushStatus; s.Breaker == "open" && !s.ResumeAt.IsZero() && strings.Contains(s.LastError, "the answer was 500") && s.Concurrency == 1 {
			break
		}
	}
	if n := len(calls); n > 12 {
		t.Errorf("%d calls were made before it held back", n)
	}
	down.Store(false)
	is := f.becomes(t, q.Name, "it is back", func(q message.Queue) bool { return isEmpty(q) && q.PushStatus.Breaker == "closed" })
	if is.Stats.DeadLetters != 0 {
		t.Errorf("%+v", is.Stats)
	}
}

// Slow endpoints of other queues, also of the same tenant, do not take the places of a queue's calls, nor those of handlers.
func TestPushesShareFairly(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.Service = f.process(t, message.Limits{Pushes: 8, Handlers: 2})
	run(t, f.Run)
	handled := make(chan time.Time, 100)
	f.worker(t, 10*time.Millisecond, message.HandleBytes("handled", func(_ context.Context, _ message.Message) error {
		handled <- time.Now()
		return nil
	}))
	stuck := make(chan struct{})
	var slow atomic.Int64
	slowURL, _ := endpoint(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("ce-warm") == "" {
			slow.Add(1)
			defer slow.Add(-1)
			select {
			case <-stuck:
			case <-r.Context().Done():
			}
		}
	})
	defer close(stuck)
	for i := range 3 {
		q := f.pushes(t, fmt.Sprint("slow", i), pushTo(slowURL))
		for n := range 40 {
			p := message.Publication{To: message.ToQueue(q.Name), Body: []byte("x")}
			if n < 20 { // So that many calls may be made at a time.
				p.Attributes = map[string]string{"warm": "1"}
			}
			if _, err := f.Publish(within(t), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	for ctx := within(t); slow.Load() < 4; <-time.After(10 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("%d slow calls", slow.Load())
		}
	}
	url, calls := endpoint(t, ok)
	q := f.pushes(t, "quick", pushTo(url))
	var took []time.Duration
	for range 20 {
		start := time.Now()
		f.publish(t, q.Name, "x")
		called(t, calls)
		took = append(took, time.Since(start))
		f.publish(t, name(t, "handled"), "x")
		<-handled
	}
	slices.Sort(took)
	if slow.Load() < 3 || took[len(took)-2] > time.Second {
		t.Errorf("beside %d slow calls: %v", slow.Load(), took)
	}
}
