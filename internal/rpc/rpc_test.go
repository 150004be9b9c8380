package rpc_test

import (
	"context"
	"encoding/json"
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

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

// stub is a service whose behavior is defined by the test.
type stub struct {
	messagev1.UnimplementedMessageServiceHandler
	publish func(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error)
	consume func(ctx context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error
	get     func(ctx context.Context, req *messagev1.GetMessageRequest) (*messagev1.WaitingMessage, error)
}

func (s stub) Publish(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	return s.publish(ctx, req)
}

func (s stub) Consume(ctx context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
	return s.consume(ctx, stream)
}

func (s stub) GetMessage(ctx context.Context, req *messagev1.GetMessageRequest) (*messagev1.WaitingMessage, error) {
	if s.get == nil {
		return s.UnimplementedMessageServiceHandler.GetMessage(ctx, req)
	}
	return s.get(ctx, req)
}

// fixture is the production stack around a stub.
type fixture struct {
	url   string
	http  *http.Client
	logs  *observer.ObservedLogs
	stack *rpc.Stack
}

func newFixture(t *testing.T, s stub, timeout time.Duration) fixture {
	t.Helper()
	return configured(t, s, rpc.Config{Timeout: timeout})
}

// configured returns a fixture whose stack has the configuration, except for its log.
func configured(t *testing.T, s stub, cfg rpc.Config) fixture {
	t.Helper()
	return serving(t, cfg, []rpc.Service{mountAll(s)}, plainRoutes...)
}

// serving returns the production stack around services and plain routes.
func serving(t *testing.T, cfg rpc.Config, services []rpc.Service, routes ...rpc.Route) fixture {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	cfg.Log = zap.New(core)
	stack := rpc.New(cfg)
	handler, err := stack.Handler(services, routes)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnContext = stack.ConnContext
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return fixture{url: server.URL, http: server.Client(), logs: logs, stack: stack}
}

// mounted returns the handler of a stack with a stub, and with plain routes.
func mounted(t *testing.T, stack *rpc.Stack, s stub, routes ...rpc.Route) http.Handler {
	t.Helper()
	handler, err := stack.Handler([]rpc.Service{mountAll(s)}, routes)
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

func mountAll(s messagev1.MessageServiceHandler) rpc.Service {
	return func(options ...connect.HandlerOption) (string, http.Handler) {
		return messagev1.NewMessageServiceHandler(s, options...)
	}
}

var plainRoutes = []rpc.Route{
	{Pattern: "GET /panic", Public: true, Serve: func(http.ResponseWriter, *http.Request) error { panic("outside of any RPC") }},
	{Pattern: "GET /half", Public: true, Serve: func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, "half")
		panic("in the middle of a reply")
	}},
	{Pattern: "GET /meant", Public: true, Serve: func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, err := io.WriteString(w, `{"status":"unavailable"}`)
		return err
	}},
}

// h2c returns a client that speaks HTTP/2 by prior knowledge.
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
	return f.send(t, req)
}

func (f fixture) send(t *testing.T, req *http.Request) (*http.Response, wireBody) {
	t.Helper()
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
			t.Fatalf("%s %s: %q is not the error shape: %v", req.Method, req.URL.Path, data, err)
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

// line waits for the log line of the only request.
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
