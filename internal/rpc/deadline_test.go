package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	messagev1 "plinth/api/plinth/message/v1"
)

func TestUnaryDeadline(t *testing.T) {
	t.Parallel()
	slow := func(ctx context.Context, _ *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f := newFixture(t, stub{publish: slow}, 50*time.Millisecond)
	for name, client := range f.callers() {
		if _, err := client.Publish(t.Context(), request()); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
			t.Errorf("%s: %v", name, err)
		}
	}
	if res, b := f.do(t, "POST", route, "application/json", good); res.StatusCode != 504 || b.Code != "deadline_exceeded" {
		t.Errorf("REST: %d %v", res.StatusCode, b)
	}
}

// A call that was cut off must not end the next one of its connection, whose context net/http would cancel.
func TestCallAfterOneThatTookTooLong(t *testing.T) {
	t.Parallel()
	slow := true
	f := newFixture(t, stub{publish: func(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
		if slow {
			<-ctx.Done()
			<-time.After(200 * time.Millisecond) // The connection is cut meanwhile.
			slow = false
			return nil, ctx.Err()
		}
		return &messagev1.PublishResponse{}, ctx.Err()
	}}, time.Second)
	if res, b := f.do(t, "POST", route, "application/json", good); res.StatusCode != 504 || !res.Close {
		t.Errorf("the slow call: %d %v; the connection is closed: %t", res.StatusCode, b, res.Close)
	}
	if res, b := f.do(t, "POST", route, "application/json", good); res.StatusCode != 200 {
		t.Errorf("the next call: %d %v", res.StatusCode, b)
	}
}

// TestSlowBody sends a body that never ends: the server must not wait for it longer than the time limit of a call.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, 50*time.Millisecond)
	for _, path := range []string{procedure, route, "/api/v1/queues/orders:pause"} {
		for name, client := range map[string]*http.Client{"h1": f.http, "h2": h2c()} {
			body, feed := io.Pipe()
			req, _ := http.NewRequest("POST", f.url+path, body)
			req.Header.Set("Content-Type", "application/json")
			go func() { _, _ = io.WriteString(feed, `{"queue":`) }()
			res, err := client.Do(req)
			if err != nil {
				t.Errorf("%s %s: %v", name, path, err)
				continue
			}
			data, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			_ = feed.Close()
			if res.StatusCode != 504 || !bytes.Contains(data, []byte(`"deadline_exceeded"`)) {
				t.Errorf("%s %s: %d %s", name, path, res.StatusCode, data)
			}
		}
	}
}

func TestStreamOutlivesTheUnaryDeadline(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{consume: func(_ context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
		for {
			if _, err := stream.Receive(); err != nil {
				return err
			}
			if err := stream.Send(&messagev1.ConsumeResponse{}); err != nil {
				return err
			}
		}
	}}, 20*time.Millisecond)
	stream, err := messagev1.NewMessageServiceClient(h2c(), f.url, connect.WithGRPC()).Consume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ack := &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Ack{Ack: &messagev1.Ack{}}}
	for range 5 {
		if err := stream.Send(ack); err != nil {
			_, why := stream.Receive()
			t.Fatal(err, why)
		}
		if _, err := stream.Receive(); err != nil {
			t.Fatal(err)
		}
		<-time.After(15 * time.Millisecond)
	}
	// Messages of a stream are validated too. The server may end the stream before the whole message is sent.
	_ = stream.Send(&messagev1.ConsumeRequest{})
	if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a message without a request: %v", err)
	}
}

func TestClientThatGoesAwayCancelsTheCall(t *testing.T) {
	t.Parallel()
	for name, client := range map[string]*http.Client{"h1": http.DefaultClient, "h2": h2c()} {
		started, ended := make(chan struct{}), make(chan error, 1)
		f := newFixture(t, stub{publish: func(ctx context.Context, _ *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
			close(started)
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}}, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", f.url+route, strings.NewReader(good))
		req.Header.Set("Content-Type", "application/json")
		go func() { <-started; cancel() }()
		if res, err := client.Do(req); err == nil {
			_ = res.Body.Close()
		}
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the call goes on", name)
		}
	}
}

func TestSmallRepliesAreNotCompressed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		size       int
		compressed bool
	}{{500, false}, {5000, true}} {
		f := newFixture(t, stub{publish: func(context.Context, *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
			return &messagev1.PublishResponse{Id: strings.Repeat("a", test.size)}, nil
		}}, time.Minute)
		req, _ := http.NewRequest("POST", f.url+procedure, strings.NewReader(good))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept-Encoding", "gzip")
		res, err := f.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Content-Encoding") == "gzip"; got != test.compressed {
			t.Errorf("%d bytes: compressed %t", test.size, got)
		}
	}
}
