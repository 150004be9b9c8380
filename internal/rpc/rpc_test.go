package rpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// stub is a service whose Publish does what the test says.
type stub struct {
	messagev1.UnimplementedMessageServiceHandler
	publish func(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error)
	consume func(ctx context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error
}

func (s stub) Publish(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	return s.publish(ctx, req)
}

func (s stub) Consume(ctx context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
	return s.consume(ctx, stream)
}

// fixture is the production stack around a stub.
type fixture struct {
	url  string
	http *http.Client
	logs *observer.ObservedLogs
}

func newFixture(t *testing.T, s stub, timeout time.Duration) fixture {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	stack, err := rpc.New(zap.New(core), timeout)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	service := rpc.Mount(messagev1.NewMessageServiceHandler(s, stack.Options()...))
	mux.Handle(service.Path, service.Handler)
	rest, err := rpc.REST([]rpc.Service{service})
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle("/api/", rest)
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("outside of any RPC") })
	mux.HandleFunc("GET /half", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("in the middle of a reply")
	})
	mux.HandleFunc("GET /meant", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"status":"unavailable"}`)
	})
	server := httptest.NewUnstartedServer(stack.Handler(mux))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return fixture{url: server.URL, http: server.Client(), logs: logs}
}

// h2c is a client that speaks HTTP/2 by prior knowledge.
func h2c() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}

func answer(ctx context.Context, _ *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	return &messagev1.PublishResponse{Id: rpc.RequestID(ctx)}, nil
}

func failing(err error) stub {
	return stub{publish: func(context.Context, *messagev1.PublishRequest) (*messagev1.PublishResponse, error) { return nil, err }}
}

const (
	procedure = "/plinth.message.v1.MessageService/Publish"
	route     = "/api/v1/message"
	good      = `{"queue":"q","message":"hello"}`
)

// wireBody is Connect's error shape.
type wireBody struct {
	Code    string
	Message string
	Details []struct {
		Type  string
		Value string
		Debug map[string]any
	}
}

func (f fixture) do(t *testing.T, method, path, contentType, body string) (*http.Response, wireBody) {
	t.Helper()
	req, err := http.NewRequest(method, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var b wireBody
	if res.StatusCode >= 400 {
		if err := json.Unmarshal(data, &b); err != nil {
			t.Fatalf("%s %s: %q is not the error shape: %v", method, path, data, err)
		}
	}
	return res, b
}

func (b wireBody) detail(name string) map[string]any {
	for _, d := range b.Details {
		if d.Type == name {
			return d.Debug
		}
	}
	return nil
}

func TestOneErrorShape(t *testing.T) {
	t.Parallel()
	f := newFixture(t, failing(errs.New(errs.NotFound, "queue: none")), time.Minute)
	const jsonType = "application/json"
	for _, test := range []struct {
		name, method, path, contentType, body string
		status                                int
		code, contains, field                 string
	}{
		{"error of the service, Connect", "POST", procedure, jsonType, good, 404, "not_found", "queue: none", ""},
		{"error of the service, REST", "POST", route, jsonType, good, 404, "not_found", "queue: none", ""},
		{"rule of the proto, Connect", "POST", procedure, jsonType, `{"queue":"!","message":""}`, 400, "invalid_argument", "queue: ", "queue"},
		{"rule of the proto, REST", "POST", route, jsonType, `{"queue":"!","message":""}`, 400, "invalid_argument", "queue: ", "queue"},
		{"wrong type, Connect", "POST", procedure, jsonType, `{"queue":5}`, 400, "invalid_argument", "field queue", "queue"},
		{"wrong type, REST", "POST", route, jsonType, `{"queue":5}`, 400, "invalid_argument", "field queue", "queue"},
		{"broken JSON, Connect", "POST", procedure, jsonType, `{"queue":`, 400, "invalid_argument", "does not parse", ""},
		{"broken JSON, REST", "POST", route, jsonType, `{"queue":`, 400, "invalid_argument", "does not parse", ""},
		{"wrong query, REST", "GET", "/api/v1/queues?page_size=x", "", "", 400, "invalid_argument", "page_size", ""},
		{"too large, Connect", "POST", procedure, jsonType, `{"queue":"` + strings.Repeat("a", 5<<20) + `"}`, 429, "resource_exhausted", "4194304", ""},
		{"too large, REST", "POST", route, jsonType, `{"queue":"` + strings.Repeat("a", 5<<20) + `"}`, 429, "resource_exhausted", "", ""},
		{"wrong method, Connect", "PUT", procedure, jsonType, good, 405, "unimplemented", "PUT", ""},
		{"wrong method, REST", "PUT", route, jsonType, good, 405, "unimplemented", "allowed: POST", ""},
		{"wrong method, plain", "POST", "/panic", jsonType, good, 405, "unimplemented", "allowed: GET", ""},
		{"GET of a call with effects", "GET", procedure, "", "", 405, "unimplemented", "allowed: POST", ""},
		{"wrong content type, REST", "POST", route, "text/csv", good, 415, "invalid_argument", "application/json", ""},
		{"unknown path", "GET", "/nope", "", "", 404, "not_found", "/nope", ""},
		{"unknown path, REST", "GET", "/api/v1/nope", "", "", 404, "not_found", "/api/v1/nope", ""},
		{"unknown procedure", "POST", "/plinth.message.v1.MessageService/Nope", jsonType, "{}", 404, "not_found", "Nope", ""},
		{"stream over HTTP/1.1", "POST", "/plinth.message.v1.MessageService/Consume", "application/connect+json", "", 505, "unimplemented", "HTTP/2", ""},
		{"panic outside of any RPC", "GET", "/panic", "", "", 500, "internal", "internal error", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			res, b := f.do(t, test.method, test.path, test.contentType, test.body)
			if res.StatusCode != test.status || b.Code != test.code || !strings.Contains(b.Message, test.contains) {
				t.Errorf("got %d %s %q, want %d %s with %q", res.StatusCode, b.Code, b.Message, test.status, test.code, test.contains)
			}
			if strings.Contains(b.Message, "messagev1") {
				t.Errorf("%q names a Go type", b.Message)
			}
			if got := res.Header.Get("Content-Type"); got != "application/json" {
				t.Errorf("content type %q", got)
			}
			info := b.detail("google.rpc.RequestInfo")
			if id := res.Header.Get("X-Request-Id"); id == "" || info["requestId"] != id {
				t.Errorf("request id %q, in the details %v", id, info)
			}
			if test.field != "" {
				bad := fmt.Sprint(b.detail("google.rpc.BadRequest"))
				if !strings.Contains(bad, "field:"+test.field+" ") && !strings.Contains(bad, "field:"+test.field+"]") {
					t.Errorf("no violation of %s in %s", test.field, bad)
				}
			}
		})
	}
}

func TestUnknownQueryParametersAreIgnored(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{}, time.Minute)
	if res, b := f.do(t, "GET", "/api/v1/queues?nope=1", "", ""); res.StatusCode != 501 || b.Code != "unimplemented" {
		t.Errorf("the call did not reach the stub: %d %v", res.StatusCode, b)
	}
}

func TestUnknownProcedureOverGRPC(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, time.Minute)
	for _, path := range []string{"/no.such.Service/Call", "/plinth.message.v1.MessageService/Nope"} {
		client := connect.NewClient[messagev1.PublishRequest, messagev1.PublishResponse](h2c(), f.url+path, connect.WithGRPC())
		_, err := client.CallUnary(t.Context(), connect.NewRequest(&messagev1.PublishRequest{}))
		if connect.CodeOf(err) != connect.CodeUnimplemented || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestMeantJSONPassesUntouched(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, time.Minute)
	res, err := f.http.Get(f.url + "/meant")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, _ := io.ReadAll(res.Body)
	if res.StatusCode != 503 || string(data) != `{"status":"unavailable"}` {
		t.Errorf("%d %q", res.StatusCode, data)
	}
}

func TestReplyCutInTheMiddle(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, time.Minute)
	res, err := f.http.Get(f.url + "/half")
	if err == nil {
		_, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
	}
	if err == nil {
		t.Error("a reply that is not whole looks whole")
	}
	if line := f.line(t); line["error"] == nil || line["level"] != zapcore.ErrorLevel {
		t.Errorf("the log does not tell: %v", line)
	}
}

// line waits for the one line of the only request.
func (f fixture) line(t *testing.T) map[string]any {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for f.logs.Len() == 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // The line is written after the reply.
	}
	if f.logs.Len() != 1 {
		t.Fatalf("%d lines for one request", f.logs.Len())
	}
	entry := f.logs.All()[0]
	fields := entry.ContextMap()
	fields["level"] = entry.Level
	return fields
}

// callers are the ways to call Publish.
func (f fixture) callers() map[string]messagev1.MessageServiceClient {
	return map[string]messagev1.MessageServiceClient{
		"connect": messagev1.NewMessageServiceClient(f.http, f.url),
		"json":    messagev1.NewMessageServiceClient(f.http, f.url, connect.WithProtoJSON()),
		"grpcweb": messagev1.NewMessageServiceClient(f.http, f.url, connect.WithGRPCWeb()),
		"grpc":    messagev1.NewMessageServiceClient(h2c(), f.url, connect.WithGRPC()),
	}
}

func request() *messagev1.PublishRequest {
	return &messagev1.PublishRequest{Queue: "q", Payload: &messagev1.PublishRequest_Message{Message: "hello"}}
}

func TestErrorsInEveryProtocol(t *testing.T) {
	t.Parallel()
	deliberate := connect.NewError(connect.CodeDataLoss, errors.New("meant so"))
	for _, test := range []struct {
		name     string
		err      error
		code     connect.Code
		message  string
		details  int
		logLevel zapcore.Level
	}{
		{"classified", fmt.Errorf("in: %w", errs.Wrap(errors.New("password=secret"), errs.Aborted, "try again")), connect.CodeAborted, "try again", 1, zapcore.InfoLevel},
		{"unknown", errors.New("password=secret"), connect.CodeInternal, "internal error", 1, zapcore.ErrorLevel},
		{"deliberate", deliberate, connect.CodeDataLoss, "meant so", 0, zapcore.ErrorLevel},
		{"canceled", context.Canceled, connect.CodeCanceled, "canceled", 1, zapcore.InfoLevel},
	} {
		for _, protocol := range []string{"connect", "json", "grpcweb", "grpc"} {
			t.Run(test.name+" "+protocol, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, failing(test.err), time.Minute)
				_, err := f.callers()[protocol].Publish(t.Context(), request())
				var wire *connect.Error
				if !errors.As(err, &wire) || wire.Code() != test.code || !strings.Contains(wire.Message(), test.message) {
					t.Fatalf("got %v, want %v %s", err, test.code, test.message)
				}
				if strings.Contains(err.Error(), "secret") {
					t.Error("the cause reached the client")
				}
				if len(wire.Details()) != test.details {
					t.Fatalf("%d details, want %d", len(wire.Details()), test.details)
				}
				if test.details > 0 {
					value, _ := wire.Details()[0].Value()
					info, ok := value.(*errdetails.RequestInfo)
					if !ok || info.GetRequestId() != wire.Meta().Get("X-Request-Id") {
						t.Errorf("detail %v, header %v", value, wire.Meta())
					}
				}
				line := f.line(t)
				if line["level"] != test.logLevel || line["code"] != test.code.String() || line["error"] != test.err.Error() {
					t.Errorf("line %v", line)
				}
			})
		}
	}
}

func TestPanicEndsInTheProtocol(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"connect", "json", "grpcweb", "grpc"} {
		f := newFixture(t, stub{publish: func(context.Context, *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
			panic("secret")
		}}, time.Minute)
		_, err := f.callers()[protocol].Publish(t.Context(), request())
		if connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", protocol, err)
		}
		if line := f.line(t); !strings.Contains(fmt.Sprint(line["error"]), "rpc_test.go") {
			t.Errorf("%s: no stack in the log: %v", protocol, line["error"])
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for protocol, path := range map[string]string{"connect": procedure, "rest": route} {
		f := newFixture(t, stub{publish: answer}, time.Minute)
		req, _ := http.NewRequest("POST", f.url+path, strings.NewReader(good))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Traceparent", parent)
		res, err := f.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Accept-Encoding"); protocol == "rest" && got != "" {
			t.Errorf("REST reply with Accept-Encoding %q", got)
		}
		line := f.line(t)
		for key, want := range map[string]any{
			"method": "POST", "path": path, "protocol": protocol, "code": "ok", "status": int64(200), "level": zapcore.InfoLevel,
			"request_id": res.Header.Get("X-Request-Id"), "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
		} {
			if line[key] != want {
				t.Errorf("%s: %s is %v, want %v", protocol, key, line[key], want)
			}
		}
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, time.Minute)
	for _, test := range []struct {
		sent string
		kept bool
	}{
		{"abc-123._Z", true}, {strings.Repeat("a", 128), true}, {strings.Repeat("a", 129), false}, {"a b", false}, {"a\"b", false}, {"é", false}, {"", false},
	} {
		req, _ := http.NewRequest("POST", f.url+route, strings.NewReader(good))
		req.Header.Set("Content-Type", "application/json")
		if test.sent != "" {
			req.Header.Set("X-Request-Id", test.sent)
		}
		res, err := f.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		got := res.Header.Get("X-Request-Id")
		if got == "" || (got == test.sent) != test.kept {
			t.Errorf("sent %q, got %q", test.sent, got)
		}
		if !bytes.Contains(data, []byte(got)) {
			t.Errorf("the handler saw another id than %q: %s", got, data)
		}
	}
}

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

// TestSlowBody sends a body that never ends: the server must not wait for it longer than a call may take.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, 50*time.Millisecond)
	for _, path := range []string{procedure, route} {
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
	// What comes over a stream is validated too. The server may end it before all of the message is sent.
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
