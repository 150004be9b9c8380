package rpc_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

// half is a request whose body does not end.
type half struct {
	path, contentType string
	prefix            string // of the message
	chunked           bool
	refused           int // the status of those that find no room
}

// send sends all but the last byte of a message of size bytes, and the status of the reply once there is one. The request ends
// with the test.
func (h half) send(t *testing.T, url, token string, size int, statuses chan<- int) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+h.path, r)
	if err != nil {
		t.Fatal(err)
	}
	if !h.chunked {
		req.ContentLength = int64(len(h.prefix) + size)
	}
	req.Header.Set("Content-Type", h.contentType)
	req.Header.Set("Authorization", "Bearer "+token)
	go func() { _, _ = io.WriteString(w, h.prefix+strings.Repeat(" ", size-1)) }()
	go func() {
		res, err := h2c().Do(req)
		if err != nil {
			return
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		statuses <- res.StatusCode
	}()
}

func envelope(size int, flags byte) string {
	return string(binary.BigEndian.AppendUint32([]byte{flags}, uint32(size)))
}

// Bodies that do not end take memory of their tenant alone, whatever the protocol, and only so much.
func TestHalfBodies(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	deadline := 10 * time.Second
	if os.Getenv("CI") == "true" { // Two other attacks, and the race detector, run beside it.
		deadline = 20 * time.Second
	}
	for name, attack := range map[string]half{
		"connect":              {path: procedure, contentType: "application/json", refused: 429},
		"connect, chunked":     {path: procedure, contentType: "application/json", chunked: true, refused: 429},
		"rest":                 {path: route, contentType: "application/json", refused: 429},
		"grpc":                 {path: procedure, contentType: "application/grpc", prefix: envelope(size, 0), chunked: true, refused: 200},
		"grpc-web with length": {path: procedure, contentType: "application/grpc-web+proto", prefix: envelope(size, 0), refused: 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys := newKeyring()
			url := servePublic(t, stub{publish: answer}, rpc.Config{
				Timeout: deadline, Authenticate: keys.authenticate, ActFor: keys.actFor, Limits: rpc.Limits{Memory: 128 << 20},
			})
			statuses := make(chan int, 8)
			for range 8 {
				attack.send(t, url, "publisher", size, statuses)
			}
			for range 4 { // The others take 12 MiB each, which is as much as they may.
				select {
				case status := <-statuses:
					if status != attack.refused {
						t.Errorf("the status is %d, want %d", status, attack.refused)
					}
				case <-time.After(deadline * 3 / 4):
					t.Error("more than 4 of 8 bodies are held")
				}
			}
			select {
			case status := <-statuses:
				t.Errorf("less than 4 bodies are held: one got %d", status)
			default:
			}
			large := &messagev1.PublishRequest{Queue: "q", Payload: &messagev1.PublishRequest_Message{Message: strings.Repeat("a", 3<<20)}}
			for what, call := range map[string]struct {
				token  string
				tenant string
				req    *messagev1.PublishRequest
			}{
				"a small call of the same tenant": {"publisher", "acme", publishing},
				"a large call of another":         {"admin", "other", large},
			} {
				client := messagev1.NewMessageServiceClient(h2c(), url, bearer(call.token, "X-Tenant", call.tenant))
				if _, err := client.Publish(t.Context(), call.req); err != nil {
					t.Errorf("%s got %v", what, err)
				}
			}
			client := messagev1.NewMessageServiceClient(h2c(), url, bearer("publisher"))
			// A body takes memory as it is read, and the four may not have been read this far yet.
			eventually(t, func() error {
				_, err := client.Publish(t.Context(), large)
				if errorDetail[*errdetails.ErrorInfo](err).GetReason() != "TOO_MUCH_IN_HAND" || errorDetail[*errdetails.RetryInfo](err) == nil {
					return fmt.Errorf("a large call of the same tenant got %v", err)
				}
				return nil
			})
			// The deadline of calls ends the bodies, and then there is room again.
			eventually(t, func() error { _, err := client.Publish(t.Context(), large); return err })
		})
	}
}

// eventually calls until there is no error, for up to a minute.
func eventually(t *testing.T, call func() error) {
	t.Helper()
	err := call()
	for deadline := time.Now().Add(time.Minute); err != nil; err = call() {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Gzip counts as what it may hold, until it is known what it holds.
func TestCompressedBodies(t *testing.T) {
	t.Parallel()
	release, working := make(chan struct{}), make(chan struct{}, 100)
	defer close(release)
	url := servePublic(t, stub{publish: func(context.Context, *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
		working <- struct{}{}
		<-release
		return &messagev1.PublishResponse{}, nil
	}}, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Memory: 32 << 20}})
	for protocol, options := range map[string][]connect.ClientOption{"connect": nil, "grpc": {connect.WithGRPC()}} {
		client := messagev1.NewMessageServiceClient(h2c(), url, append(options, connect.WithSendGzip())...)
		// Each reserves 12 MiB and needs some hundred bytes.
		for i := range 20 {
			go func() {
				_, _ = client.Publish(t.Context(), &messagev1.PublishRequest{Queue: "q", Payload: noise(8 << 10)})
			}()
			select {
			case <-working:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: call %d finds no room", protocol, i)
			}
		}
	}
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	_, _ = w.Write(bytes.Repeat([]byte(" "), 4<<20))
	_ = w.Close()
	statuses := make(chan int, 4)
	for _, path := range []string{procedure, route} {
		for range 2 {
			halfGzip(t, url+path, bomb.Bytes(), statuses)
		}
	}
	for range 3 { // One takes 12 MiB, and the rest is less than that afterwards.
		if status := <-statuses; status != http.StatusTooManyRequests {
			t.Errorf("what inflates to 4 MiB got %d", status)
		}
	}
}

// noise is a payload of that size, which gzip makes a third smaller at most.
func noise(size int) *messagev1.PublishRequest_Message {
	var text strings.Builder
	for i := 0; text.Len() < size; i++ {
		fmt.Fprintf(&text, "%x", i*7919*7919)
	}
	return &messagev1.PublishRequest_Message{Message: text.String()[:size]}
}

// halfGzip sends all but the last byte of a compressed body, and the status of the reply once there is one.
func halfGzip(t *testing.T, url string, body []byte, statuses chan<- int) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, r)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	go func() { _, _ = w.Write(body[:len(body)-1]) }()
	go func() {
		res, err := h2c().Do(req)
		if err != nil {
			return
		}
		_ = res.Body.Close()
		statuses <- res.StatusCode
	}()
}

// A stream holds the memory of one message at a time, however many it has received.
func TestStreamsGiveMemoryBack(t *testing.T) {
	t.Parallel()
	url := servePublic(t, stub{consume: echo}, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Memory: 32 << 20}})
	stream, err := messagev1.NewMessageServiceClient(h2c(), url, connect.WithGRPC()).Consume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = strings.Repeat("a", 255)
	}
	for i := range 50 { // 12 MiB in all, with thrice the memory
		if err := stream.Send(&messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Ack{Ack: &messagev1.Ack{Ids: ids}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Receive(); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	_ = stream.CloseRequest()
	_ = stream.CloseResponse()
}

// What is decoded, or turns out not to be a message, makes room for what comes next, whatever the protocol.
func TestTurnsAreGivenBack(t *testing.T) {
	t.Parallel()
	f := configured(t, stub{publish: answer}, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Memory: 256 << 20}})
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(bytes.Repeat([]byte{0x0a, 0x00}, 2<<20-8))
	_ = w.Close()
	const batch = "/plinth.message.v1.MessageService/PublishBatch"
	for _, test := range []struct{ path, contentType, encoding, body string }{
		{batch, "application/proto", "gzip", packed.String()},
		{batch, "application/proto", "gzip", packed.String()[:1000]},
		{batch, "application/proto", "", strings.Repeat("x", 1<<20)},
		{"/api/v1/messages:batch", "application/json", "gzip", packed.String()},
		{"/api/v1/messages:batch", "application/json", "", strings.Repeat("x", 1<<20)},
		{batch, "application/grpc-web+proto", "", envelope(1<<20, 0) + strings.Repeat("x", 1<<20)},
	} {
		for range 2 * runtime.GOMAXPROCS(0) {
			req, _ := http.NewRequest("POST", f.url+test.path, strings.NewReader(test.body))
			req.Header.Set("Content-Type", test.contentType)
			if test.encoding != "" {
				req.Header.Set("Content-Encoding", test.encoding)
			}
			res, b := f.send(t, req)
			if strings.Contains(b.Message, "try again") || res.StatusCode != 400 && res.StatusCode != 200 {
				t.Fatalf("%s %s: got %d %v", test.path, test.contentType, res.StatusCode, b)
			}
		}
	}
	large := &messagev1.PublishRequest{Queue: "q", Payload: &messagev1.PublishRequest_Message{Message: strings.Repeat("a", 1<<20)}}
	for name, client := range f.callers() {
		if _, err := client.Publish(t.Context(), large); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The message of a GET is in the query, where a little gzip stands for a large message, too.
func TestQueriesTakeMemory(t *testing.T) {
	t.Parallel()
	f := configured(t, stub{}, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Memory: 8 << 20}})
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(bytes.Repeat([]byte(" "), 3<<20))
	_ = w.Close()
	path := f.url + "/plinth.message.v1.MessageService/ListQueues?connect=v1&encoding=json&base64=1&message="
	for query, want := range map[string]string{
		"e30": "unimplemented", // {}
		base64.RawURLEncoding.EncodeToString(packed.Bytes()) + "&compression=gzip": "resource_exhausted",
	} {
		req, _ := http.NewRequest("GET", path+query, nil)
		if _, b := f.send(t, req); b.Code != want {
			t.Errorf("%.20s: got %v, want %s", query, b, want)
		}
	}
}
