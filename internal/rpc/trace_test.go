package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
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
		{"01-" + id + "-" + parent + "-01-more", "", good + " "},
		{"cc-" + id + "-" + parent + "-01", "", good + " "},
		{"cc-" + id + "-" + parent + "-01.more", "a=1", " "},
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

// TestCollectorHangs has a collector that never answers. Calls never wait for it: they end, many more than spans that may wait for it.
func TestCollectorHangs(t *testing.T) {
	t.Parallel()
	hanging, asked := make(chan struct{}), make(chan struct{}, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-hanging
	}))
	tracing, err := observe.NewTracing(t.Context(), observe.TracingConfig{
		Endpoint: collector.URL, Protocol: "http/protobuf", Timeout: time.Hour, Sampler: "always_on", Service: "test", Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := mounted(t, rpc.New(rpc.Config{Log: zap.NewNop(), Timeout: time.Minute, Tracing: tracing}), stub{
		publish: func(ctx context.Context, _ *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
			_, step := observe.Begin(ctx, observe.Postgres, "SELECT")
			step.End("")
			return &messagev1.PublishResponse{Id: "1"}, nil
		},
	})
	const calls = 5_000 // of two spans each: twice as many as wait
	ended := make(chan int, 1)
	go func() {
		n := 0
		for range calls {
			reply := httptest.NewRecorder()
			request := httptest.NewRequest(http.MethodPost, procedure, strings.NewReader(`{"queue":"q","message":"m"}`))
			request.Header.Set("Content-Type", "application/json")
			handler.ServeHTTP(reply, request)
			if reply.Code == http.StatusOK {
				n++
			}
		}
		ended <- n
	}()
	select {
	case n := <-ended:
		if n != calls {
			t.Errorf("%d of %d calls succeed", n, calls)
		}
	case <-time.After(2 * time.Minute):
		t.Error("calls wait for the collector")
	}
	if <-asked; len(asked) != 0 {
		t.Error("it was asked again, before it answered")
	}
	close(hanging)
	collector.Close()
	tracing.Close(t.Context())
}
