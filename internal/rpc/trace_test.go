package rpc_test

import (
	"context"
	"errors"
	"fmt"
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

func TestTrace(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1)
	f := newFixture(t, stub{
		publish: func(ctx context.Context, _ *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
			parent, state := observe.Trace(ctx)
			seen <- parent + " " + state
			return &messagev1.PublishResponse{}, nil
		},
		consume: func(ctx context.Context, _ *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
			parent, state := observe.Trace(ctx)
			seen <- parent + " " + state
			return nil
		},
	}, time.Minute)
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	const good = "00-" + id + "-" + parent + "-01"
	for _, test := range []struct{ parent, state, want string }{
		{good, "", good + " "},
		{good, "a=1,b=2", good + " a=1,b=2"},
		{good, strings.Repeat("x", 513), good + " "},
		{good, "é", good + " "},
		{"01-" + id + "-" + parent + "-01-more", "", "01-" + id + "-" + parent + "-01 "},
		{"", "a=1", " "},
		{good + "-more", "a=1", " "},
		{"ff-" + id + "-" + parent + "-01", "", " "},
		{"00-" + strings.ToUpper(id) + "-" + parent + "-01", "", " "},
		{"00-" + strings.Repeat("0", 32) + "-" + parent + "-01", "", " "},
		{"00-" + id + "-" + strings.Repeat("0", 16) + "-01", "", " "},
		{"00-" + id + "-" + parent + "-0x", "", " "},
		{"00-" + id + "_" + parent + "-01", "", " "},
	} {
		for _, path := range []string{procedure, route} {
			req, _ := http.NewRequest("POST", f.url+path, strings.NewReader(`{"queue":"q","message":"m"}`))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Tracestate", test.state)
			if test.parent != "" {
				req.Header.Set("Traceparent", test.parent)
			}
			res, err := f.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if got := <-seen; got != test.want {
				t.Errorf("%s: traceparent %q, tracestate %.20q: the handler sees %q", path, test.parent, test.state, got)
			}
		}
	}
	client := messagev1.NewMessageServiceClient(h2c(), f.url)
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Traceparent", good)
	stream, err := client.Consume(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(nil)
	if got := <-seen; got != good+" " {
		t.Errorf("a stream's handler sees %q", got)
	}
}

// TestPartError fails parts of a call that succeeds as a whole.
func TestPartError(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cause error
		want  string
		level zapcore.Level
	}{
		{errs.New(errs.NotFound, "no such thing"), "not_found: no such thing", zapcore.InfoLevel},
		{errs.Wrap(errors.New("secret"), errs.Unavailable, "away"), "unavailable: away", zapcore.ErrorLevel},
		{errors.New("secret"), "internal: internal error: ", zapcore.ErrorLevel},
	} {
		f := newFixture(t, stub{publish: func(ctx context.Context, _ *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
			code, message := rpc.PartError(ctx, test.cause)
			return &messagev1.PublishResponse{Id: code + ": " + message}, nil
		}}, time.Minute)
		res, err := f.callers()["connect"].Publish(t.Context(), request())
		if err != nil || !strings.HasPrefix(res.GetId(), test.want) || strings.Contains(res.GetId(), "secret") {
			t.Errorf("%v: %v %v", test.cause, res, err)
		}
		line := f.line(t)
		if line["level"] != test.level || line["code"] != "ok" {
			t.Errorf("%v: %v", test.cause, line)
		}
		if logged := strings.Contains(fmt.Sprint(line["error"]), test.cause.Error()); logged != (test.level == zapcore.ErrorLevel) {
			t.Errorf("%v: the log says %v", test.cause, line["error"])
		}
	}
}
