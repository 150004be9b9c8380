package rpc_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	filev1 "plinth/api/plinth/file/v1"
	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/auth"
	"plinth/internal/rpc"
)

// Who has no scope, or used up a rate, is refused before the body has arrived, on every kind of path.
func TestRefusedBeforeTheBody(t *testing.T) {
	t.Parallel()
	keys := newKeyring()
	f := serving(t, rpc.Config{
		Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor, Limiter: newLimiter(t),
		Limits: rpc.Limits{Key: auth.Rate{Count: 1, Per: time.Hour}},
	}, []rpc.Service{mountAll(stub{publish: whose})}, rpc.Route{
		Pattern: "POST /api/v1/upload", Scope: "messages.publish", Stall: time.Minute,
		Serve: func(_ http.ResponseWriter, r *http.Request) error { _, err := io.Copy(io.Discard, r.Body); return err },
	})
	f.with(t, "POST", route, "Bearer publisher", good)
	for _, path := range []string{procedure, route, "/api/v1/upload"} {
		for token, want := range map[string]string{"reader": "403", "publisher": "429"} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.WriteString(conn, head(path)+"Authorization: Bearer "+token+"\r\nContent-Length: 1000000\r\n\r\n{"); err != nil {
				t.Fatal(err)
			}
			reply := make([]byte, 12)
			if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != "HTTP/1.1 "+want {
				t.Errorf("%s with %s: got %q, %v; want %s", path, token, reply, err, want)
			}
		}
	}
}

// A list is counted before it is built, whatever the protocol.
func TestHugeBatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{}, time.Minute)
	const entries = 1_000_000
	pack := func(body []byte) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(body)
		_ = w.Close()
		return b.String()
	}
	inJSON := pack([]byte(`{"messages":[` + strings.Repeat("{},", entries) + `{}]}`))
	inProto := pack(bytes.Repeat([]byte{0x0a, 0x00}, entries))
	const batch = "/plinth.message.v1.MessageService/PublishBatch"
	for _, test := range []struct{ path, contentType, body string }{
		{batch, "application/json", inJSON},
		{batch, "application/proto", inProto},
		{"/api/v1/messages:batch", "application/json", inJSON},
	} {
		req, _ := http.NewRequest("POST", f.url+test.path, strings.NewReader(test.body))
		req.Header.Set("Content-Type", test.contentType)
		req.Header.Set("Content-Encoding", "gzip")
		if res, b := f.send(t, req); res.StatusCode != 400 || !strings.Contains(b.Message, "messages: at most 1000 items are allowed") {
			t.Errorf("%s %s: got %d %v", test.path, test.contentType, res.StatusCode, b)
		}
	}
	for name, option := range map[string]connect.ClientOption{"grpc": connect.WithGRPC(), "grpcweb": connect.WithGRPCWeb()} {
		client := messagev1.NewMessageServiceClient(h2c(), f.url, option, connect.WithSendGzip())
		_, err := client.PublishBatch(t.Context(), &messagev1.PublishBatchRequest{Messages: make([]*messagev1.PublishRequest, 200_000)})
		if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "messages: at most 1000 items") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A panic is never a reply that looks right: it is an error, or the reply is cut off.
func TestPanicsAreNoReplies(t *testing.T) {
	t.Parallel()
	routes := []rpc.Route{
		{Pattern: "GET /at-once", Public: true, Serve: func(http.ResponseWriter, *http.Request) error { panic("no") }},
		{Pattern: "GET /closed", Public: true, Serve: func(w http.ResponseWriter, _ *http.Request) error {
			defer func() { w.WriteHeader(http.StatusOK) }()
			panic("and a deferred call ends the reply")
		}},
		{Pattern: "GET /flushed", Public: true, Serve: func(w http.ResponseWriter, _ *http.Request) error {
			defer w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "half")
			panic("no")
		}},
		{Pattern: "GET /fails", Public: true, Serve: func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "half")
			return errors.New("no")
		}},
		{Pattern: "GET /stream", Public: true, Stall: time.Minute, Serve: func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "half")
			panic("no")
		}},
	}
	f := serving(t, rpc.Config{Timeout: time.Minute}, []rpc.Service{mountAll(stub{
		publish: func(context.Context, *messagev1.PublishRequest) (*messagev1.PublishResponse, error) { panic("no") },
	})}, routes...)
	for protocol, client := range map[string]*http.Client{"HTTP/1.1": f.http, "HTTP/2": h2c()} {
		for _, path := range []string{"/at-once", "/closed", "/flushed", "/fails", "/stream", route, procedure} {
			req, _ := http.NewRequest("GET", f.url+path, nil)
			if path == route || path == procedure {
				req, _ = http.NewRequest("POST", f.url+path, strings.NewReader(good))
				req.Header.Set("Content-Type", "application/json")
			}
			res, err := client.Do(req)
			if err != nil {
				continue // It was cut off before the header.
			}
			data, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil && res.StatusCode != http.StatusInternalServerError {
				t.Errorf("%s %s: %d %q looks right", protocol, path, res.StatusCode, data)
			}
		}
	}
}

func TestHeadersThatContradict(t *testing.T) {
	t.Parallel()
	keys := newKeyring()
	f := configured(t, stub{publish: whose}, rpc.Config{Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor})
	for _, test := range []struct {
		path, name string
		values     []string
		status     int
	}{
		{route, "X-Tenant", []string{"acme"}, 200},
		{route, "X-Tenant", []string{"acme", "acme"}, 400},
		{route, "X-Tenant", []string{"acme", "other"}, 400},
		{procedure, "X-Tenant", []string{"acme", "other"}, 400},
		{route, "X-Server-Timeout", []string{"1.5"}, 200},
		{route, "X-Server-Timeout", []string{"99999999999999999999"}, 200},
		{route, "X-Server-Timeout", []string{"NaN"}, 400},
		{route, "X-Server-Timeout", []string{"Inf"}, 400},
		{route, "X-Server-Timeout", []string{"-1"}, 400},
		{route, "X-Server-Timeout", []string{"0"}, 400},
		{route, "X-Server-Timeout", []string{"1e3"}, 400},
		{route, "X-Server-Timeout", []string{"soon"}, 400},
	} {
		for _, token := range []string{"publisher", "admin"} {
			req, _ := http.NewRequest("POST", f.url+test.path, strings.NewReader(good))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header[test.name] = test.values
			if res, b := f.send(t, req); res.StatusCode != test.status {
				t.Errorf("%s %s %q of %s: got %d %v", test.path, test.name, test.values, token, res.StatusCode, b)
			}
		}
	}
}

// The rest of a body that is too large is not waited for.
func TestRestOfALargeBodyIsNotRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, time.Minute)
	for _, path := range []string{procedure, route} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			_, _ = io.WriteString(conn, head(path)+"Content-Length: 1000000000\r\n\r\n"+strings.Repeat(" ", rpc.MaxMessageBytes+4096))
		}()
		reply := make([]byte, 12)
		if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != "HTTP/1.1 429" {
			t.Errorf("%s: got %q, %v", path, reply, err)
		}
	}
}

// What is left of a body that was not read is not taken for the next request.
func TestRestOfABodyIsNoRequest(t *testing.T) {
	t.Parallel()
	f := configured(t, stub{publish: answer}, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Memory: 64 << 20}})
	large := strings.Repeat(" ", rpc.MaxMessageBytes+512<<10)
	for _, test := range [][2]string{
		{procedure, "application/json"},
		{route, "application/json"},
		{procedure, "application/grpc-web+json"},
		{procedure, "application/grpc"},
		{"/plinth.message.v1.MessageService/Consume", "application/connect+json"},
	} {
		body := "\x00\x7f\xff\xff\xff" + large
		body += "GET /meant HTTP/1.1\r\nHost: x\r\n\r\n"
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			_, _ = io.WriteString(conn, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", test[0], test[1], len(body), body))
		}()
		replies, _ := io.ReadAll(conn)
		if n := strings.Count(string(replies), "HTTP/1.1 "); n > 1 || strings.Contains(string(replies), "meant") {
			t.Errorf("%s of %s: %d replies to one request: %.200q", test[0], test[1], n, replies)
		}
	}
}

// TestRestOfAStreamIsNoRequest has a handler of a client stream answer without reading the stream. Connect closes the body, whose rest
// net/http must not take for the next request of the connection.
func TestRestOfAStreamIsNoRequest(t *testing.T) {
	t.Parallel()
	f := serving(t, rpc.Config{Timeout: time.Minute}, []rpc.Service{func(options ...connect.HandlerOption) (string, http.Handler) {
		return filev1.NewFileServiceHandler(filev1.UnimplementedFileServiceHandler{}, options...)
	}}, plainRoutes...)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	const discarded, tail = 4 << 20, 1 << 20 // by Connect before it closes the body; more than net/http itself reads
	body := strings.Repeat(" ", discarded) + strings.Repeat("GET /meant HTTP/1.1\r\nHost: x\r\n\r\n", tail/35)
	go func() {
		_, _ = io.WriteString(conn, fmt.Sprintf("POST /plinth.file.v1.FileService/UploadFile HTTP/1.1\r\nHost: x\r\n"+
			"Content-Type: application/connect+json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	}()
	replies, _ := io.ReadAll(conn)
	if n := strings.Count(string(replies), "HTTP/1.1 "); n != 1 || strings.Contains(string(replies), "meant") {
		t.Errorf("%d replies to one request: %.300q", n, replies)
	}
}

func TestServerTimeout(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: func(ctx context.Context, _ *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}, time.Minute)
	req, _ := http.NewRequest("POST", f.url+route, strings.NewReader(good))
	req.Header.Set("X-Server-Timeout", "0.05")
	if res, b := f.send(t, req); res.StatusCode != http.StatusGatewayTimeout || b.Code != "deadline_exceeded" {
		t.Errorf("got %d %v", res.StatusCode, b)
	}
}

// A plain route that streams lives as long as bytes come, and no longer.
func TestPaceOfPlainRoutes(t *testing.T) {
	t.Parallel()
	const stall = time.Second
	keys := newKeyring()
	f := serving(t, rpc.Config{Timeout: 2 * stall, Authenticate: keys.authenticate, ActFor: keys.actFor}, nil, rpc.Route{
		Pattern: "PUT /api/v1/upload/{name}", Scope: "messages.publish", Stall: stall,
		Serve: func(w http.ResponseWriter, r *http.Request) error {
			data, err := io.ReadAll(r.Body)
			if err == nil {
				<-time.After(stall + stall/2) // The handler's own time does not count.
				_, err = io.WriteString(w, r.PathValue("name")+" "+string(data))
			}
			return err
		},
	})
	send := func(client *http.Client, token string, body io.Reader) (int, string) {
		req, _ := http.NewRequest("PUT", f.url+"/api/v1/upload/a%252Fb", body)
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = res.Body.Close() }()
		data, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(data)
	}
	for protocol, client := range map[string]*http.Client{"HTTP/1.1": f.http, "HTTP/2": h2c()} {
		slow, to := io.Pipe()
		go func() {
			for range 8 {
				<-time.After(stall / 4)
				_, _ = io.WriteString(to, "x")
			}
			_ = to.Close()
		}()
		if status, text := send(client, "publisher", slow); status != 200 || text != "a%2Fb xxxxxxxx" {
			t.Errorf("%s, slow: %d %q", protocol, status, text)
		}
		still, begun := io.Pipe()
		go func() { _, _ = io.WriteString(begun, "x") }()
		if status, text := send(client, "publisher", still); status != 504 && status != 0 || status == 504 && !strings.Contains(text, "no byte of the body") {
			t.Errorf("%s, still: %d %q", protocol, status, text)
		}
		_ = begun.Close()
		if status, _ := send(client, "reader", strings.NewReader("x")); status != 403 {
			t.Errorf("%s, without the scope: %d", protocol, status)
		}
	}
}

// A plain route that streams ends when its credential does.
func TestRevokedUploadEnds(t *testing.T) {
	t.Parallel()
	keys := newKeyring()
	began := make(chan struct{}, 1)
	f := serving(t, rpc.Config{Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor}, nil, rpc.Route{
		Pattern: "PUT /api/v1/upload", Scope: "messages.publish", Stall: time.Minute,
		Serve: func(_ http.ResponseWriter, r *http.Request) error {
			began <- struct{}{}
			_, err := io.Copy(io.Discard, r.Body)
			return err
		},
	})
	body, to := io.Pipe()
	defer to.Close()
	go func() { <-began; keys.revoke("publisher") }()
	req, _ := http.NewRequest("PUT", f.url+"/api/v1/upload", body)
	req.Header.Set("Authorization", "Bearer publisher")
	res, err := h2c().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _ = res.Body.Close(); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %d", res.StatusCode)
	}
}
