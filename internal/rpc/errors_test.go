package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap/zapcore"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/errs"
)

func TestOneErrorShape(t *testing.T) {
	t.Parallel()
	f := newFixture(t, failing(errs.New(errs.NotFound, "queue: none")), time.Minute)
	const jsonType, named = "application/json", "/api/v1/queues/orders"
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
		{"broken JSON beside a path, REST", "PATCH", named, jsonType, `{"maxAttempts":`, 400, "invalid_argument", "does not parse", ""},
		{"no object beside a path, REST", "PATCH", named, jsonType, `[]`, 400, "invalid_argument", "does not parse", ""},
		{"wrong type beside a path, REST", "PATCH", named, jsonType, `{"bindings":5}`, 400, "invalid_argument", "does not parse", ""},
		{"no text in a path, REST", "GET", "/api/v1/queues/%ff", "", "", 400, "invalid_argument", "UTF-8", "name"},
		{"wrong query, REST", "GET", "/api/v1/queues?page_size=x", "", "", 400, "invalid_argument", "page_size", ""},
		{"too large, Connect", "POST", procedure, jsonType, `{"queue":"` + strings.Repeat("a", 5<<20) + `"}`, 429, "resource_exhausted", "4194304", ""},
		{"too large, REST", "POST", route, jsonType, `{"queue":"` + strings.Repeat("a", 5<<20) + `"}`, 429, "resource_exhausted", "", ""},
		{"too large beside a path, REST", "PATCH", named, jsonType, `{"x":"` + strings.Repeat("a", 5<<20) + `"}`, 429, "resource_exhausted", "4194304", ""},
		{"wrong method, Connect", "PUT", procedure, jsonType, good, 405, "unimplemented", "PUT", ""},
		{"wrong method, REST", "PUT", route, jsonType, good, 405, "unimplemented", "allowed: POST", ""},
		{"wrong method, plain", "POST", "/panic", jsonType, good, 405, "unimplemented", "allowed: GET", ""},
		{"GET of a call with effects", "GET", procedure, "", "", 405, "unimplemented", "allowed: POST", ""},
		{"wrong content type, REST", "POST", route, "text/csv", good, 415, "invalid_argument", "application/json", ""},
		{"unknown path", "GET", "/nope", "", "", 404, "not_found", "/nope", ""},
		{"unknown path that reads like a parser", "GET", "/nope%20proto:%20x", "", "", 404, "not_found", "/nope proto: x", ""},
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

// Messages about an invalid request are short, however much of it is wrong, both for the caller and in the log.
func TestFaultMessagesAreShort(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("a", 1<<17)
	key := `{"queue":"q","message":"","attributes":{"` + large + `":""}}`
	envelope := "\x00\x00\x02\x00\x02" + `"` + large + `"`
	for _, test := range []struct{ name, path, contentType, body, want string }{
		{"no object", procedure, "application/json", `"` + large + `"`, "invalid_argument"},
		{"no object, REST", route, "application/json", `"` + large + `"`, "invalid_argument"},
		{"no object, stream", "/plinth.message.v1.MessageService/Consume", "application/connect+json", envelope, "invalid_argument"},
		{"key of a map", procedure, "application/json", key, `"field":"attributes[\"aaa`},
		{"key of a map, REST", route, "application/json", key, `"field":"attributes[\"aaa`},
		{"path", "/" + large[:60000], "application/json", "", "openapi"},
		{"path, REST", "/api/v1/" + large[:60000], "application/json", "", "openapi"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, stub{consume: func(_ context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
				_, err := stream.Receive()
				return err
			}}, time.Minute)
			req, _ := http.NewRequest("POST", f.url+test.path, strings.NewReader(test.body))
			req.Header.Set("Content-Type", test.contentType)
			res, err := h2c().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			data, _ := io.ReadAll(res.Body)
			if len(data) > 8<<10 || !strings.Contains(string(data), test.want) {
				t.Errorf("%d bytes of error: %.300q", len(data), data)
			}
			if line := fmt.Sprint(f.line(t)); len(line) > 20<<10 {
				t.Errorf("%d bytes are logged", len(line))
			}
		})
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
		{"classified", fmt.Errorf("in: %w", errs.Wrap(errors.New("password=secret"), errs.Aborted, "try again")), connect.CodeAborted, "try again", 2, zapcore.InfoLevel},
		{"unknown", errors.New("password=secret"), connect.CodeInternal, "internal error", 2, zapcore.ErrorLevel},
		{"deliberate", deliberate, connect.CodeDataLoss, "meant so", 0, zapcore.ErrorLevel},
		{"canceled", context.Canceled, connect.CodeCanceled, "canceled", 2, zapcore.InfoLevel},
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
					request, info := errorDetail[*errdetails.RequestInfo](wire), errorDetail[*errdetails.ErrorInfo](wire)
					if request.GetRequestId() != wire.Meta().Get("X-Request-Id") || info.GetReason() != strings.ToUpper(test.code.String()) {
						t.Errorf("details %v, %v, header %v", request, info, wire.Meta())
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
