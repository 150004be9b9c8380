package rpc_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// kinds is a service with the kinds of routes that no domain has yet, over messages that some have.
type kinds struct {
	watch func(ctx context.Context, name string, send func(*messagev1.Queue) error) error
}

const kindsService = "/plinth.test.v1.Kinds/"

// declareKinds registers the proto of kinds.
var declareKinds = sync.OnceFunc(func() {
	const in, out = ".plinth.message.v1.", ".plinth.message.v1."
	method := func(name, input, output string, stream bool, rule *annotations.HttpRule) *descriptorpb.MethodDescriptorProto {
		options := &descriptorpb.MethodOptions{}
		proto.SetExtension(options, annotations.E_Http, rule)
		return &descriptorpb.MethodDescriptorProto{Name: &name, InputType: &input, OutputType: &output, ServerStreaming: &stream, Options: options}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("plinth/test/v1/kinds.proto"), Package: proto.String("plinth.test.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"plinth/message/v1/message.proto", "google/api/httpbody.proto", "google/api/annotations.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Kinds"), Method: []*descriptorpb.MethodDescriptorProto{
			method("Watch", in+"GetQueueRequest", out+"Queue", true, &annotations.HttpRule{
				Pattern: &annotations.HttpRule_Get{Get: "/api/v1/kinds/{name}:watch"},
				AdditionalBindings: []*annotations.HttpRule{{
					Pattern: &annotations.HttpRule_Post{Post: "/api/v1/kinds:watch"}, Body: "*",
				}},
			}),
			method("Echo", ".google.api.HttpBody", ".google.api.HttpBody", false, &annotations.HttpRule{
				Pattern: &annotations.HttpRule_Put{Put: "/api/v1/kinds"}, Body: "*",
			}),
			method("List", in+"ListDeadLettersRequest", out+"PublishResult", false, &annotations.HttpRule{
				Pattern: &annotations.HttpRule_Post{Post: "/api/v1/kinds/{queue}/list"}, Body: "filter", ResponseBody: "error",
			}),
		}}},
	}, protoregistry.GlobalFiles)
	if err == nil {
		err = protoregistry.GlobalFiles.RegisterFile(file)
	}
	if err != nil {
		panic(err)
	}
})

func (k *kinds) mount(options ...connect.HandlerOption) (string, http.Handler) {
	mux := http.NewServeMux()
	mux.Handle(kindsService+"Watch", connect.NewServerStreamHandlerSimple(kindsService+"Watch",
		func(ctx context.Context, req *messagev1.GetQueueRequest, stream *connect.ServerStream[messagev1.Queue]) error {
			return k.watch(ctx, req.GetName(), stream.Send)
		}, options...))
	mux.Handle(kindsService+"Echo", connect.NewUnaryHandlerSimple(kindsService+"Echo",
		func(ctx context.Context, req *httpbody.HttpBody) (*httpbody.HttpBody, error) {
			if call, ok := connect.CallInfoForHandlerContext(ctx); ok {
				call.ResponseHeader().Set("ETag", `"one"`)
				if call.RequestHeader().Get("If-Match") == `"two"` {
					return nil, errs.New(errs.FailedPrecondition, "it is another one")
				}
			}
			return req, nil
		}, options...))
	mux.Handle(kindsService+"List", connect.NewUnaryHandlerSimple(kindsService+"List",
		func(_ context.Context, req *messagev1.ListDeadLettersRequest) (*messagev1.PublishResult, error) {
			return &messagev1.PublishResult{Id: "left out", Error: &messagev1.PublishError{Code: req.GetQueue(), Message: compact(req)}}, nil
		}, options...))
	return kindsService, mux
}

func (k *kinds) serve(t *testing.T) fixture {
	t.Helper()
	declareKinds()
	return serving(t, rpc.Config{
		Timeout: time.Minute, Public: []string{kindsService + "Watch", kindsService + "Echo", kindsService + "List"},
	}, []rpc.Service{k.mount})
}

func TestBytesOverREST(t *testing.T) {
	t.Parallel()
	f := (&kinds{}).serve(t)
	for _, test := range []struct {
		header, value string
		status        int
		body          string
	}{
		{"", "", 200, "\x00\xff"},
		{"If-Match", `"one"`, 200, "\x00\xff"},
		{"If-Match", `"two"`, 412, ""},
	} {
		req, _ := http.NewRequest("PUT", f.url+"/api/v1/kinds", strings.NewReader("\x00\xff"))
		req.Header.Set("Content-Type", "image/png")
		if test.header != "" {
			req.Header.Set(test.header, test.value)
		}
		res, err := f.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != test.status || test.status == 200 && (string(data) != test.body || res.Header.Get("Content-Type") != "image/png") {
			t.Errorf("%s %s: %d %q %v", test.header, test.value, res.StatusCode, data, res.Header)
		}
	}
}

func TestPartsOfMessagesOverREST(t *testing.T) {
	t.Parallel()
	f := (&kinds{}).serve(t)
	for _, test := range []struct{ path, body, want string }{
		{"/api/v1/kinds/q/list?page_size=3", `{"reason":"x"}`, `{"queue":"q", "pageSize":3, "filter":{"reason":"x"}}`},
		{"/api/v1/kinds/q/list", ``, `{"queue":"q"}`},
	} {
		res, err := f.http.Post(f.url+test.path, "application/json", strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		var got messagev1.PublishError
		if err := protojson.Unmarshal(data, &got); err != nil || got.GetCode() != "q" || got.GetMessage() != test.want {
			t.Errorf("%s: %d %s", test.path, res.StatusCode, data)
		}
	}
	for path, body := range map[string]string{
		"/api/v1/kinds/q/list?filter.reason=y": `{"reason":"x"}`,
		"/api/v1/kinds/q/list?queue=r":         `{}`,
		"/api/v1/kinds/q/list":                 `{},"queue":"victim"`,
	} {
		if res, b := f.do(t, "POST", path, "application/json", body); res.StatusCode != 400 {
			t.Errorf("%s: %d %v", path, res.StatusCode, b)
		}
	}
}

// A stream is sent as events; its error is an ordinary one before the first event, and the last event afterwards.
func TestEvents(t *testing.T) {
	t.Parallel()
	k := &kinds{watch: func(ctx context.Context, name string, send func(*messagev1.Queue) error) error {
		switch name {
		case "none":
			return errs.New(errs.NotFound, "queue: none")
		case "empty":
			return nil
		case "panics":
			panic("at once")
		}
		for _, n := range []string{"1", "2"} {
			rpc.NextEvent(ctx, rpc.Event{ID: n + "\nevent: forged", More: n == "1"})
			if err := send(&messagev1.Queue{Name: name + rpc.LastEventID(ctx)}); err != nil {
				return err
			}
		}
		if name == "fails" {
			return errs.New(errs.Unavailable, "later")
		}
		if name == "panics.later" {
			panic("later")
		}
		return nil
	}}
	f := k.serve(t)
	for _, client := range []*http.Client{f.http, h2c()} {
		for name, want := range map[string]struct {
			status int
			events []string
		}{
			"q":            {200, []string{"id: 1event: forged", `data: {"name":"q7"}`, "", "id: 2event: forged", `data: {"name":"q7"}`, ""}},
			"fails":        {200, []string{"", "event: error", `"code":"unavailable"`}},
			"panics.later": {200, []string{"", "event: error", `"code":"internal"`}},
			"empty":        {200, nil},
			"none":         {404, []string{`"code":"not_found"`}},
			"panics":       {500, []string{`"code":"internal"`}},
			"!":            {400, []string{`"code":"invalid_argument"`}},
		} {
			req, _ := http.NewRequest("GET", f.url+"/api/v1/kinds/"+name+":watch", nil)
			req.Header.Set("Last-Event-ID", "7")
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			retry, text, _ := strings.Cut(strings.ReplaceAll(string(data), `": "`, `":"`), "\n\n")
			if want.status != 200 {
				text = retry + text
			} else if ms, err := strconv.Atoi(strings.TrimPrefix(retry, "retry: ")); err != nil || ms < 1000 || ms >= 5000 {
				t.Errorf("%s: it begins with %q", name, retry)
			}
			if res.StatusCode != want.status || err != nil || !strings.Contains(text, strings.Join(want.events[max(0, len(want.events)-1):], "")) {
				t.Errorf("%s: %d %q %v", name, res.StatusCode, text, err)
			}
			if want.status == 200 {
				if !strings.HasPrefix(text, strings.Join(want.events[:min(len(want.events), 6)], "\n")) && name == "q" {
					t.Errorf("%s: %q", name, text)
				}
				if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") || res.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: %v", name, res.Header)
				}
				if strings.Contains(name, "s") && !strings.Contains(text, "\n\nevent: error\ndata: {") {
					t.Errorf("%s: no error at the end of %q", name, text)
				}
			}
		}
	}
}

// A HEAD ends with the header, and so does its handler: another call may follow on the connection.
func TestHeadOfEvents(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	k := &kinds{watch: func(_ context.Context, name string, send func(*messagev1.Queue) error) error {
		for {
			if err := send(&messagev1.Queue{Name: name}); err != nil {
				ended <- err
				return err
			}
			<-time.After(time.Millisecond)
		}
	}}
	f := k.serve(t)
	for _, client := range []*http.Client{f.http, h2c()} {
		res, err := client.Head(f.url + "/api/v1/kinds/q:watch")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
			t.Errorf("%d %v", res.StatusCode, res.Header)
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatal("the handler goes on")
		}
	}
}

// Events arrive as they are sent, also where the request has a body.
func TestEventsComeAtOnce(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	k := &kinds{watch: func(ctx context.Context, _ string, send func(*messagev1.Queue) error) error {
		for {
			select {
			case name := <-next:
				if err := send(&messagev1.Queue{Name: name}); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}}
	f := k.serve(t)
	go func() { next <- "first" }()
	res, err := f.http.Post(f.url+"/api/v1/kinds:watch", "application/json", strings.NewReader(`{"name":"q"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	for _, want := range []string{"first", "second"} {
		for lines.Scan() && !strings.Contains(lines.Text(), want) {
			if lines.Text() != "" && !strings.HasPrefix(lines.Text(), "retry: ") {
				t.Fatalf("got %q", lines.Text())
			}
		}
		if lines.Err() != nil {
			t.Fatal(lines.Err())
		}
		if want == "first" {
			go func() { next <- "second" }()
		}
	}
}
