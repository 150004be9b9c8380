package rpc_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap/zapcore"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/rpc"
)

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

// A stream that ends because it was to finish is no fault of the server, and one that ends for another reason is.
func TestPlannedEndIsNoFault(t *testing.T) {
	t.Parallel()
	away := errs.New(errs.Unavailable, "come back")
	for name, test := range map[string]struct {
		age  time.Duration
		want zapcore.Level
	}{"too old": {100 * time.Millisecond, zapcore.InfoLevel}, "away": {time.Hour, zapcore.ErrorLevel}} {
		f := configured(t, stub{consume: func(ctx context.Context, _ *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
			if test.age < time.Minute {
				<-rpc.Finishing(ctx).Done()
			}
			return away
		}}, rpc.Config{Timeout: time.Minute, MaxAge: test.age})
		stream, err := messagev1.NewMessageServiceClient(h2c(), f.url, connect.WithGRPC()).Consume(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(nil)
		if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("%s: %v", name, err)
		}
		if line := f.line(t); line["level"] != test.want || line["code"] != "unavailable" {
			t.Errorf("%s: %v", name, line)
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

// A method that a client made up fills neither the log nor the reply.
func TestLongMethod(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: answer}, time.Minute)
	req, _ := http.NewRequest(strings.Repeat("X", 9000), f.url+route, nil)
	res, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	line := f.line(t)
	if method, said := line["method"].(string), line["error"].(string); len(method) != 1024 || len(said) > 2048 || len(data) > 2048 || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("%s: the reply has %d bytes, and the line a method of %d and an error of %d", res.Status, len(data), len(method), len(said))
	}
}

// The line of a call has the time that it spent in backends, and none of those that it did not use.
func TestLineHasTimes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, stub{publish: func(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
		_, step := observe.Begin(ctx, observe.Postgres, "SELECT")
		step.End("")
		_, step = observe.Begin(context.WithoutCancel(ctx), observe.Broker, "send")
		step.End("")
		return answer(ctx, req)
	}}, time.Minute)
	res, err := f.http.Post(f.url+procedure, "application/json", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	line := f.line(t)
	if spent, _ := line["postgres_ms"].(time.Duration); spent <= 0 {
		t.Errorf("postgres_ms is %v", line["postgres_ms"])
	}
	if line["broker_ms"] == nil || line["redis_ms"] != nil || line["s3_ms"] != nil {
		t.Errorf("%v", line)
	}
}

// What a request repeats in the error for who sent it may be a payload, so its line has only where the request does not parse.
func TestLineQuotesNoRequest(t *testing.T) {
	t.Parallel()
	const canary = "canary"
	for body, want := range map[string]string{
		`{"message": canary}`:                          "syntax error (line 1:13)",
		`{"message": ["canary"]}`:                      "(line 1:",
		`{"data": "canary!"}`:                          "(line 1:10): invalid value for bytes field data",
		"{\"queue\": \"a\",\n\"data\": \"canary!\n\"}": "(line 2:",
		`{"message": "canary`:                          "it ends early",
	} {
		for _, path := range []string{procedure, route} {
			f := newFixture(t, stub{publish: answer}, time.Minute)
			res, err := f.http.Post(f.url+path, "application/json", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			logged, _ := f.line(t)["error"].(string)
			if res.StatusCode != http.StatusBadRequest || !strings.Contains(logged, want) || strings.Contains(logged, canary) {
				t.Errorf("%s, %s: %d, and the line has %q, want %q", path, body, res.StatusCode, logged, want)
			}
		}
	}
}
