package rpc_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// keyring maps tokens to principals.
type keyring struct {
	mu     sync.Mutex
	tokens map[string]*auth.Principal
}

func newKeyring() *keyring {
	principal := func(id string, scopes ...string) *auth.Principal {
		return &auth.Principal{ID: id, Tenant: auth.Tenant{Name: "acme"}, Scopes: scopes}
	}
	return &keyring{tokens: map[string]*auth.Principal{
		"publisher": principal("publisher", "messages.publish"),
		"consumer":  principal("consumer", "messages.*"),
		"reader":    principal("reader", "queues.read"),
		"admin":     principal("admin", auth.Admin),
	}}
}

func (k *keyring) authenticate(_ context.Context, token string) (*auth.Principal, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if token == "undecided" {
		return nil, errs.New(errs.Unavailable, "identity cannot be told now")
	}
	if p := k.tokens[token]; p != nil {
		return p, nil
	}
	return nil, errs.New(errs.Unauthenticated, "this API key is not known")
}

func (k *keyring) actFor(_ context.Context, p *auth.Principal, tenant string) (*auth.Principal, error) {
	if tenant == "nobody" {
		return nil, errs.New(errs.PermissionDenied, "no such tenant")
	}
	other := *p
	other.Tenant = auth.Tenant{Name: tenant}
	return &other, nil
}

func (k *keyring) revoke(token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.tokens, token)
}

// whose replies with the tenant and the principal that a call acts for.
func whose(ctx context.Context, _ *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	return &messagev1.PublishResponse{Id: auth.TenantOf(ctx) + "/" + auth.From(ctx).ID}, nil
}

func guarded(t *testing.T) (fixture, *keyring, func() map[string]int) {
	t.Helper()
	keys := newKeyring()
	var mu sync.Mutex
	denied := map[string]int{}
	f := configured(t, stub{publish: whose, consume: untilTheEnd}, rpc.Config{
		Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor, Origins: []string{"https://app.example.com"},
		Denied: func(procedure string) { mu.Lock(); denied[procedure]++; mu.Unlock() },
	})
	return f, keys, func() map[string]int { mu.Lock(); defer mu.Unlock(); return denied }
}

// untilTheEnd replies that the stream is open, and keeps it open until its context ends.
func untilTheEnd(ctx context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
	if err := stream.Send(&messagev1.ConsumeResponse{}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-rpc.Finishing(ctx).Done():
		return nil
	}
}

// bearer sends a token with every call; if it is empty, no token is sent.
func bearer(token string, more ...string) connect.ClientOption {
	return connect.WithInterceptors(sender(func(h http.Header) {
		if token != "" {
			h.Set("Authorization", "Bearer "+token)
		}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
	}))
}

type sender func(http.Header)

func (s sender) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		s(req.Header())
		return next(ctx, req)
	}
}

func (s sender) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		s(conn.RequestHeader())
		return conn
	}
}

func (s sender) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func TestWhoMay(t *testing.T) {
	t.Parallel()
	f, _, denied := guarded(t)
	for protocol, options := range map[string][]connect.ClientOption{
		"connect": nil, "grpc": {connect.WithGRPC()}, "grpcweb": {connect.WithGRPCWeb()},
	} {
		for _, test := range []struct {
			token, tenant string
			code          connect.Code // 0 is ok
			want          string       // the reply, or the reason of the error
		}{
			{"", "", connect.CodeUnauthenticated, "UNAUTHENTICATED"},
			{"forged", "", connect.CodeUnauthenticated, "UNAUTHENTICATED"},
			{"undecided", "", connect.CodeUnavailable, "UNAVAILABLE"},
			{"reader", "", connect.CodePermissionDenied, "SCOPE_MISSING"},
			{"publisher", "", 0, "acme/publisher"},
			{"consumer", "", 0, "acme/consumer"},
			{"publisher", "acme", 0, "acme/publisher"},
			{"publisher", "other", connect.CodePermissionDenied, "TENANT_DENIED"},
			{"admin", "", 0, "acme/admin"},
			{"admin", "other", 0, "other/admin"},
			{"admin", "nobody", connect.CodePermissionDenied, "PERMISSION_DENIED"},
		} {
			t.Run(protocol+" "+test.token+" "+test.tenant, func(t *testing.T) {
				t.Parallel()
				with := bearer(test.token)
				if test.tenant != "" {
					with = bearer(test.token, "X-Tenant", test.tenant)
				}
				client := messagev1.NewMessageServiceClient(h2c(), f.url, append(options, with)...)
				res, err := client.Publish(t.Context(), &messagev1.PublishRequest{Queue: "q", Payload: &messagev1.PublishRequest_Message{}})
				if test.code == 0 {
					if err != nil || res.GetId() != test.want {
						t.Errorf("got %v, %v; want %s", res, err, test.want)
					}
					return
				}
				info := errorDetail[*errdetails.ErrorInfo](err)
				if connect.CodeOf(err) != test.code || info.GetReason() != test.want || info.GetDomain() != "plinth" {
					t.Errorf("got %v with %v, want %v with %s", err, info, test.code, test.want)
				}
				if strings.Contains(fmt.Sprint(err), "forged") {
					t.Errorf("%v repeats the token", err)
				}
			})
		}
	}
	t.Cleanup(func() { // This runs after the parallel subtests.
		if n := denied()[procedure]; n == 0 {
			t.Error("denials are not counted")
		}
	})
}

// errorDetail finds a detail of an error by its type.
func errorDetail[T any](err error) (found T) {
	wire, ok := err.(*connect.Error)
	if !ok {
		return found
	}
	for _, d := range wire.Details() {
		if value, err := d.Value(); err == nil {
			if is, ok := value.(T); ok {
				return is
			}
		}
	}
	return found
}

func (f fixture) with(t *testing.T, method, path, token, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Origin", "https://app.example.com")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	res, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func TestWhoMayOverREST(t *testing.T) {
	t.Parallel()
	f, _, _ := guarded(t)
	for _, test := range []struct {
		method, path, token string
		status              int
		want                string
	}{
		{"POST", route, "", 401, `"code":"unauthenticated"`},
		{"POST", route, "Basic cHVibGlzaGVyOg==", 401, `"code":"unauthenticated"`},
		{"POST", route, "Bearer ", 401, `"code":"unauthenticated"`},
		{"POST", route, "Bearer forged", 401, `"reason":"UNAUTHENTICATED"`},
		{"POST", route, "Bearer reader", 403, `"reason":"SCOPE_MISSING"`},
		{"POST", route, "bearer publisher", 200, `"acme/publisher"`},
		{"GET", "/api/v1/nope", "", 401, `"code":"unauthenticated"`},
		{"GET", "/api/v1/nope", "Bearer reader", 404, `"code":"not_found"`},
		{"GET", "/nope", "", 404, `"code":"not_found"`},
		{"GET", "/meant", "", 503, `"status":"unavailable"`},
	} {
		res := f.with(t, test.method, test.path, test.token, good)
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != test.status || !strings.Contains(strings.ReplaceAll(string(body), `": "`, `":"`), test.want) {
			t.Errorf("%s %s with %q: got %d %s, want %d with %s", test.method, test.path, test.token, res.StatusCode, body, test.status, test.want)
		}
		if challenge := res.Header.Get("WWW-Authenticate"); (challenge == "Bearer") != (test.status == 401) {
			t.Errorf("%s with %q: WWW-Authenticate is %q", test.path, test.token, challenge)
		}
		if res.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
			t.Errorf("%s with %q: a page cannot read why", test.path, test.token)
		}
		if res.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s with %q: no request id", test.path, test.token)
		}
	}
}

// An unauthenticated caller is refused before the body has arrived.
func TestNobodysBodyIsNotRead(t *testing.T) {
	t.Parallel()
	f, _, _ := guarded(t)
	for _, path := range []string{procedure, route} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, head(path)+"Content-Length: 1000000\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		reply := make([]byte, 12)
		if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != "HTTP/1.1 401" {
			t.Errorf("%s: got %q, %v", path, reply, err)
		}
	}
}

// An RPC that is mounted without the handler around it, or that names no scope, may be called by nobody.
func TestDenyByDefault(t *testing.T) {
	t.Parallel()
	stack := rpc.New(rpc.Config{Timeout: time.Minute, Authenticate: newKeyring().authenticate})
	var handler http.Handler
	if _, err := stack.Handler([]rpc.Service{func(options ...connect.HandlerOption) (path string, _ http.Handler) {
		path, handler = messagev1.NewMessageServiceHandler(stub{publish: whose}, options...)
		return path, handler
	}}, nil); err != nil {
		t.Fatal(err)
	}
	f := serveAlone(t, handler)
	client := messagev1.NewMessageServiceClient(http.DefaultClient, f, bearer("admin"))
	_, err := client.Publish(t.Context(), &messagev1.PublishRequest{Queue: "q", Payload: &messagev1.PublishRequest_Message{}})
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("got %v", err)
	}
	for _, scopes := range [][]string{{auth.Admin}, {auth.All}, {".*"}, {""}} {
		if (&auth.Principal{Scopes: scopes}).Allows("") {
			t.Errorf("%q allows a method without a scope", scopes)
		}
	}
}

// A stream ends within a second of its credential's end, and gets the reason.
func TestRevokedStreamEnds(t *testing.T) {
	t.Parallel()
	f, keys, _ := guarded(t)
	open := func(token string) *connect.BidiStreamForClientSimple[messagev1.ConsumeRequest, messagev1.ConsumeResponse] {
		stream, err := messagev1.NewMessageServiceClient(h2c(), f.url, connect.WithGRPC(), bearer(token)).Consume(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(nil)
		t.Cleanup(func() { _ = stream.CloseRequest(); _ = stream.CloseResponse() })
		if _, err := stream.Receive(); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	revoked, other := open("consumer"), open("admin")
	began := time.Now()
	keys.revoke("consumer")
	if _, err := revoked.Receive(); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it ended after %v", took)
	}
	ended := make(chan error, 1)
	go func() { _, err := other.Receive(); ended <- err }()
	select {
	case err := <-ended:
		t.Errorf("another one ended with %v", err)
	case <-time.After(1200 * time.Millisecond):
	}
	_ = other.CloseRequest()
	_ = other.CloseResponse()
}
