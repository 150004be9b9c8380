package rpc_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

// The time limits of the port under attack: those of production, shortened to keep the test short.
const (
	hurriedCall   = 2 * time.Second // the deadline of a unary call
	hurriedHeader = 2 * time.Second // ReadHeaderTimeout
	hurriedIdle   = 2 * time.Second // IdleTimeout
	hurriedWrite  = time.Second     // WriteByteTimeout
	patience      = 2 * time.Minute // the longest time that a hostile client may stay connected, on a busy machine
	ordinaryWait  = time.Second     // nine in ten ordinary calls must be answered within this time meanwhile
)

// besieged is the production stack on the production server, on a port of its own.
type besieged struct {
	address string
	url     string
	running atomic.Int64 // handlers
	open    atomic.Int64 // connections
}

func newBesieged(t *testing.T) *besieged {
	t.Helper()
	b := &besieged{}
	stack := rpc.New(rpc.Config{Log: zap.NewNop(), Timeout: hurriedCall})
	handler := mounted(t, stack, stub{publish: b.publish, consume: echo}, rpc.Route{
		Pattern: "POST /deaf", Public: true,
		Serve: func(http.ResponseWriter, *http.Request) error { <-time.After(200 * time.Millisecond); return nil },
	})
	server := rpc.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.running.Add(1)
		defer b.running.Add(-1)
		handler.ServeHTTP(w, r)
	}), zap.NewNop())
	hurry(t, &server.ReadHeaderTimeout, hurriedHeader)
	hurry(t, &server.IdleTimeout, hurriedIdle)
	hurry(t, &server.HTTP2.WriteByteTimeout, hurriedWrite)
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			b.open.Add(1)
			_ = conn.(*net.TCPConn).SetWriteBuffer(64 << 10) // Otherwise it grows until it holds a big reply.
		case http.StateClosed:
			b.open.Add(-1)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
	b.address = listener.Addr().String()
	b.url = "http://" + b.address
	return b
}

// hurry shortens a limit, which must be set.
func hurry(t *testing.T, limit *time.Duration, to time.Duration) {
	t.Helper()
	if *limit <= 0 {
		t.Error("a limit of the server is not set")
	}
	*limit = to
}

func (b *besieged) publish(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	if req.GetQueue() == "big" {
		return &messagev1.PublishResponse{Id: strings.Repeat("a", 3<<20)}, nil
	}
	return answer(ctx, req)
}

func echo(_ context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
	for {
		if _, err := stream.Receive(); err != nil {
			return err
		}
		if err := stream.Send(&messagev1.ConsumeResponse{}); err != nil {
			return err
		}
	}
}

// TestHostileClients runs the patient attacks, all at once, and then the swift ones; if CI is true, repeatedly for a minute.
// Each must be cut off in time, while ordinary calls are answered and a stream that was open before stays open.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	b := newBesieged(t)
	stream, err := messagev1.NewMessageServiceClient(h2c(), b.url, connect.WithGRPC()).Consume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	talk(t, stream)
	waits := b.ordinary(t)

	// A minute is twice the deadline of calls in production.
	lives := time.Second
	if os.Getenv("CI") == "true" {
		lives = time.Minute
	}
	for begun := time.Now(); time.Since(begun) < lives; {
		b.suffer(t, patient)
		b.suffer(t, swift)
		talk(t, stream)
	}
	ordinary := waits()
	slices.Sort(ordinary)
	if d := ordinary[len(ordinary)*9/10]; d > ordinaryWait {
		t.Errorf("one in ten of %d ordinary calls took %v and more", len(ordinary), d)
	}
	// Only the stream is left, on the only connection of its client.
	deadline := time.Now().Add(patience)
	for (b.running.Load() != 1 || b.open.Load() != 1) && time.Now().Before(deadline) {
		<-time.After(10 * time.Millisecond)
	}
	if b.running.Load() != 1 || b.open.Load() != 1 {
		t.Errorf("%d calls and %d connections are left, want 1 and 1", b.running.Load(), b.open.Load())
	}
	talk(t, stream)
}

// suffer runs all clients of the attacks, and waits until the last one is cut off.
func (b *besieged) suffer(t *testing.T, attacks map[string]attack) {
	var clients sync.WaitGroup
	for name, attack := range attacks {
		for range attack.clients {
			clients.Go(func() {
				if err := attack.run(b.address); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	clients.Wait()
}

// talk sends a message on the stream and waits for the reply.
func talk(t *testing.T, stream *connect.BidiStreamForClientSimple[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) {
	t.Helper()
	ack := &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Ack{Ack: &messagev1.Ack{}}}
	if err := stream.Send(ack); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); err != nil {
		t.Fatal(err)
	}
}

// ordinary makes a call every few milliseconds, each on a connection of its own. The function that it returns stops the
// calls and returns how long each one took.
func (b *besieged) ordinary(t *testing.T) (waits func() []time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan []time.Duration)
	go func() {
		var all []time.Duration
		for ctx.Err() == nil {
			<-time.After(10 * time.Millisecond)
			for _, client := range []*http.Client{h2c(), {Transport: &http.Transport{}}} {
				start := time.Now()
				_, err := messagev1.NewMessageServiceClient(client, b.url).Publish(t.Context(), request())
				client.CloseIdleConnections()
				if err != nil {
					t.Error("an ordinary call:", err)
				}
				all = append(all, time.Since(start))
			}
		}
		done <- all
	}()
	return func() []time.Duration {
		cancel()
		return <-done
	}
}
