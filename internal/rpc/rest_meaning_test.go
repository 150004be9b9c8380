package rpc_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

// recorder is a service that keeps the requests that reach it.
type recorder struct {
	messagev1.UnimplementedMessageServiceHandler
	mu   sync.Mutex
	last proto.Message
}

func (r *recorder) keep(m proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = m
}

func (r *recorder) take() proto.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.last = nil }()
	return r.last
}

func (r *recorder) Publish(_ context.Context, m *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	r.keep(m)
	return &messagev1.PublishResponse{}, nil
}

func (r *recorder) GetQueue(_ context.Context, m *messagev1.GetQueueRequest) (*messagev1.Queue, error) {
	r.keep(m)
	return &messagev1.Queue{}, nil
}

func (r *recorder) ListQueues(_ context.Context, m *messagev1.ListQueuesRequest) (*messagev1.ListQueuesResponse, error) {
	r.keep(m)
	return &messagev1.ListQueuesResponse{}, nil
}

func (r *recorder) UpdateQueue(_ context.Context, m *messagev1.UpdateQueueRequest) (*messagev1.Queue, error) {
	r.keep(m)
	return &messagev1.Queue{}, nil
}

func (r *recorder) DeleteQueue(_ context.Context, m *messagev1.DeleteQueueRequest) (*messagev1.DeleteQueueResponse, error) {
	r.keep(m)
	return &messagev1.DeleteQueueResponse{}, nil
}

func (r *recorder) PauseQueue(_ context.Context, m *messagev1.PauseQueueRequest) (*messagev1.Queue, error) {
	r.keep(m)
	return &messagev1.Queue{}, nil
}

func (r *recorder) ListDeadLetters(_ context.Context, m *messagev1.ListDeadLettersRequest) (*messagev1.ListDeadLettersResponse, error) {
	r.keep(m)
	return &messagev1.ListDeadLettersResponse{}, nil
}

// meaning is a REST request, and the message that it means, in JSON; or the status of the error and the field that it names.
type meaning struct {
	name, method, path, contentType, body string
	want                                  string
	status                                int
	field                                 string
}

func TestWhatARequestMeans(t *testing.T) {
	t.Parallel()
	const text, queues = "application/json", "/api/v1/queues/"
	for _, test := range []meaning{
		// A path is split first, and decoded once.
		{"name", "GET", queues + "orders", "", "", `{"name":"orders"}`, 0, ""},
		{"dots", "GET", queues + "a..b", "", "", `{"name":"a..b"}`, 0, ""},
		{"escaped letter", "GET", queues + "%6frders", "", "", `{"name":"orders"}`, 0, ""},
		{"escaped letter of a literal", "GET", "/api/v1/%71ueues/orders", "", "", `{"name":"orders"}`, 0, ""},
		{"escaped verb", "DELETE", queues + "orders%3Apause", "", "", "", 400, "name"},
		{"escaped verb of another method", "POST", queues + "orders%3Apause", text, "{}", "", 405, ""},
		{"verb of another method", "DELETE", queues + "orders:pause", "", "", "", 400, "name"},
		{"unknown verb", "POST", queues + "orders:stop", text, "{}", "", 405, ""},
		{"escaped slash", "GET", queues + "orders%2Fdead-letters", "", "", "", 400, "name"},
		{"escaped percent", "GET", queues + "%2525", "", "", "", 400, "name"},
		{"dots that go up", "GET", queues + "..", "", "", "", 400, "name"},
		{"dots that go up, escaped", "GET", queues + "%2e%2e/message", "", "", "", 404, ""},
		{"empty segment", "GET", "/api/v1//queues", "", "", "", 404, ""},
		{"slash at the end", "GET", queues, "", "", "", 404, ""},
		{"another case", "GET", "/api/v1/Queues", "", "", "", 404, ""},
		{"HEAD", "HEAD", queues + "orders", "", "", `{"name":"orders"}`, 0, ""},

		// A query sets what nothing else does.
		{"query", "GET", "/api/v1/queues?page_size=7&pageToken=x", "", "", `{"pageSize":7, "pageToken":"x"}`, 0, ""},
		{"query within a message", "GET", queues + "q/dead-letters?filter.reason=a%26b&filter.start_time=2026-01-02T03:04:05Z", "", "",
			`{"queue":"q", "filter":{"reason":"a&b", "startTime":"2026-01-02T03:04:05Z"}}`, 0, ""},
		{"unknown parameters", "GET", "/api/v1/queues?nope=1&nope.x=2&filter.nope=3", "", "", `{}`, 0, ""},
		{"query for the path", "DELETE", queues + "mine?name=victim", "", "", "", 400, "name"},
		{"query for the path, the same", "DELETE", queues + "mine?name=mine", "", "", "", 400, "name"},
		{"query for the path beside a body", "POST", queues + "mine:pause?name=victim", text, "{}", "", 400, "name"},
		{"query for the body", "POST", "/api/v1/message?queue=other", text, good, "", 400, "queue"},
		{"query for what the body leaves out", "POST", "/api/v1/message?idempotencyKey=x", text, good, "", 400, "idempotency_key"},
		{"unknown query beside a body", "POST", "/api/v1/message?nope=1", text, good, `{"queue":"q", "message":"hello"}`, 0, ""},
		{"a dot at the end", "POST", "/api/v1/message?delay.=1", text, good, "", 400, ""},
		{"no name", "GET", "/api/v1/queues?=1", "", "", "", 400, ""},
		{"part of a number", "GET", "/api/v1/queues?page_size.x=1", "", "", "", 400, "page_size"},
		{"part of a moment", "GET", queues + "q/dead-letters?filter.start_time.seconds=1", "", "", "", 400, "start_time"},
		{"whole message", "GET", queues + "q/dead-letters?filter=x", "", "", "", 400, "filter"},
		{"twice", "GET", "/api/v1/queues?page_size=1&page_size=2", "", "", "", 400, "page_size"},
		{"by both names", "GET", "/api/v1/queues?page_size=1&pageSize=1", "", "", "", 400, "page_size"},
		{"no number", "GET", "/api/v1/queues?page_size=", "", "", "", 400, "page_size"},
		{"large number", "GET", "/api/v1/queues?page_size=2147483648", "", "", "", 400, "page_size"},
		{"no time", "GET", queues + "q/dead-letters?filter.end_time=now", "", "", "", 400, "filter.end_time"},
		{"no text", "GET", "/api/v1/queues?page_token=%ff", "", "", "", 400, "page_token"},
		{"broken escape", "GET", "/api/v1/queues?page_token=%zz", "", "", "", 400, ""},
		{"semicolon", "GET", "/api/v1/queues?page_size=1;page_token=x", "", "", "", 400, ""},

		// Bodies.
		{"path and body agree", "PATCH", queues + "q", text, `{"name":"q","maxAttempts":2}`, `{"name":"q", "maxAttempts":2, "updateMask":"maxAttempts"}`, 0, ""},
		{"path and body differ", "PATCH", queues + "q", text, `{"name":"victim"}`, "", 400, "name"},
		{"no body", "POST", queues + "q:pause", "", "", `{"name":"q"}`, 0, ""},
		{"no body, of another type", "POST", queues + "q:pause", "text/plain", "", `{"name":"q"}`, 0, ""},
		{"unknown fields", "POST", queues + "q:pause", text, `{"nope":{"deep":[1,"]}"]}}`, `{"name":"q"}`, 0, ""},
		{"GET with a body", "GET", "/api/v1/queues", text, `{"pageSize":1}`, "", 400, ""},
		{"DELETE with a body", "DELETE", queues + "q", text, `{}`, "", 400, ""},
		{"no text, PATCH", "PATCH", queues + "q", text, "\xff\xfe", "", 400, ""},
		{"no text, verb", "POST", queues + "q:pause", text, "\xff\xfe", "", 400, ""},
		{"no text in a string", "POST", "/api/v1/message", text, "{\"queue\":\"q\",\"message\":\"\xff\"}", "", 400, ""},
		{"null", "POST", queues + "q:pause", text, "null", "", 400, ""},
		{"two values", "POST", queues + "q:pause", text, "{}{}", "", 400, ""},
		{"field twice", "POST", "/api/v1/message", text, `{"queue":"q","queue":"r","message":""}`, "", 400, ""},
	} {
		test.run(t)
	}
}

// Every legal spelling of JSON is taken, and no other text.
func TestContentTypes(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]int{
		"application/json":                          200,
		"application/json;charset=UTF-8":            200,
		`application/json; charset="utf-8"`:         200,
		"Application/JSON":                          200,
		"application/json ; charset=utf-8":          200,
		"application/json;":                         200,
		"APPLICATION/JSON;CHARSET=utf-8":            200,
		"application/json; version=1":               200,
		"":                                          200,
		"application/json; charset=iso-8859-1":      415,
		"application/json; charset=utf-16":          415,
		"application/json; charset":                 415,
		"text/json":                                 415,
		"application/x-www-form-urlencoded":         415,
		"application/jsonp":                         415,
		"application/proto":                         415,
		"application/grpc":                          415,
		"application/rest":                          415,
		"application/json, application/json":        415,
		"multipart/form-data; boundary=x; charset=": 415,
	} {
		m := meaning{contentType, "POST", route, contentType, good, `{"queue":"q", "message":"hello"}`, 0, ""}
		if want != 200 {
			m.want, m.status = "", want
		}
		m.run(t)
	}
}

// A PATCH without a mask changes every field that the body has, also to its zero value.
func TestMaskOfABody(t *testing.T) {
	t.Parallel()
	for body, mask := range map[string]string{
		`{"maxAttempts":0}`: `"maxAttempts"`,
		`{"max_attempts":3, "bindings":[], "messageTtl":null, "name":"q", "nope":1}`: `"maxAttempts,bindings,messageTtl"`,
		`{"max\u0041ttempts":3}`:                            `"maxAttempts"`,
		`{"maxAttempts":0, "updateMask":"minBackoff"}`:      `"minBackoff"`,
		`{"minBackoff":"1s", "updateMask":""}`:              `"minBackoff"`,
		`{"bindings":[{"topic":"maxLength","pattern":""}]}`: `"bindings"`,
		`{}`: `""`,
	} {
		r := &recorder{}
		f := served(t, r)
		if res, b := f.do(t, "PATCH", "/api/v1/queues/q", "application/json", body); res.StatusCode != 200 {
			if !strings.Contains(body, `"pattern":""`) { // It is against a rule, which is looked at afterwards.
				t.Errorf("%s: %d %v", body, res.StatusCode, b)
			}
			continue
		}
		m, _ := r.take().(*messagev1.UpdateQueueRequest)
		if got := compact(m.GetUpdateMask()); got != mask {
			t.Errorf("%s: the mask is %s, want %s", body, got, mask)
		}
	}
}

func (m meaning) run(t *testing.T) {
	t.Run(m.name, func(t *testing.T) {
		t.Parallel()
		r := &recorder{}
		f := served(t, r)
		res, b := f.do(t, m.method, m.path, m.contentType, m.body)
		got := compact(r.take())
		if m.status != 0 {
			if res.StatusCode != m.status || got != "" || b.Message == "" {
				t.Errorf("got %d %q, and %q reached the service; want %d", res.StatusCode, b.Message, got, m.status)
			}
			if line := f.line(t); line["level"].(interface{ String() string }).String() == "error" {
				t.Errorf("the log has an error: %v", line)
			}
			if m.field != "" && !strings.Contains(fmt.Sprint(b.detail("google.rpc.BadRequest")), "field:"+m.field+" ") && !strings.Contains(fmt.Sprint(b.detail("google.rpc.BadRequest")), "field:"+m.field+"]") {
				t.Errorf("%q does not name %s", b.Message, m.field)
			}
			return
		}
		if res.StatusCode != http.StatusOK || got != m.want {
			t.Errorf("got %d %q with %s, want %s", res.StatusCode, b.Message, got, m.want)
		}
		if kind := res.Header.Get("Content-Type"); kind != "application/json" {
			t.Errorf("content type %q", kind)
		}
	})
}

func served(t *testing.T, r *recorder) fixture {
	t.Helper()
	return serving(t, rpc.Config{Timeout: time.Minute}, []rpc.Service{mountAll(r)})
}

// compact returns a message in JSON, as it is written by hand; nothing for none.
func compact(m proto.Message) string {
	if m == nil {
		return ""
	}
	data, _ := protojson.Marshal(m)
	text := strings.ReplaceAll(string(data), ":  ", ":")
	return strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(text, `": `, `":`), `,"`, `, "`), `,  "`, `, "`)
}
