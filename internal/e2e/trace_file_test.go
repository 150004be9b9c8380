package e2e

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	filev1 "plinth/api/plinth/file/v1"
	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/blob/blobtest"
	"plinth/internal/observe/observetest"
)

// tracesFiles uploads files whose event fails, waits, fails for good, is redriven and succeeds. All of that is one trace: from the
// client's call through the database, the bucket and the broker to the endpoint that is told of the file.
func tracesFiles(t *testing.T, broker string) {
	collector := observetest.New(t)
	s := startSystem(t, with(with(backends(t, broker), blobtest.New(t).Env()), map[string]string{
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.URL, "OUTBOUND_ALLOWED_NETWORKS": "127.0.0.0/8",
	}))
	endpoint := &failing{calls: map[string][]string{}}
	server := httptest.NewServer(endpoint)
	t.Cleanup(server.Close)
	client := grpcClient(t, s.url)
	_, err := client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{
		Name: "uploaded", MinBackoff: durationpb.New(10 * time.Millisecond), Push: &messagev1.Push{Url: server.URL},
		Bindings: []*messagev1.Binding{{Topic: "files", Pattern: "file.created"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	const form, resumed, direct = "4bf92f3577b34da6a3ce929d0e0e4701", "4bf92f3577b34da6a3ce929d0e0e4702", "4bf92f3577b34da6a3ce929d0e0e4703"
	sendForm(t, s.url, form)
	sendTus(t, s.url, resumed)
	eventually(t, "both events fail for good", func() bool {
		q, err := client.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: "uploaded"})
		return err == nil && q.GetDeadLetters() == 2
	})
	if _, err := client.RedriveDeadLetters(t.Context(), &messagev1.RedriveDeadLettersRequest{Queue: "uploaded", Filter: &messagev1.DeadLetterFilter{}}); err != nil {
		t.Fatal(err)
	}
	for trace, want := range map[string]upload{
		form:    {"POST /api/v1/upload", "200", []string{"PutObject"}},
		resumed: {"PATCH /api/v1/uploads/{id}", "204", []string{"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"}},
	} {
		all := collector.Await(t, "the event is taken", func(all []observetest.Span) bool {
			of := ofTrace(all, trace)
			return len(observetest.Named(of, "process uploaded")) == 3 && len(observetest.Named(of, "relay")) == 3 &&
				len(observetest.Named(of, "POST")) == 3 && len(observetest.Named(of, want.route)) == 1
		})
		want.check(t, ofTrace(all, trace), endpoint.of(trace))
	}
	sendDirect(t, s.url, direct)
	all := collector.Await(t, "a worker verifies the upload by URL, and its event is attempted", func(all []observetest.Span) bool {
		of := ofTrace(all, direct)
		return len(observetest.Named(of, "verify")) > 0 && len(observetest.Named(of, "process uploaded")) > 0 && len(observetest.Named(of, completing)) > 0
	})
	verified, event := observetest.Named(ofTrace(all, direct), "verify")[0], observetest.Named(ofTrace(all, direct), "process uploaded")[0]
	if call := observetest.Named(ofTrace(all, direct), completing)[0]; verified.Parent != call.ID || event.Parent != verified.ID {
		t.Errorf("the event %+v is not below %+v, or that not below %+v", event, verified, call)
	}
	// The line of a call has the time that it spent in each backend.
	if _, err := client.Publish(t.Context(), &messagev1.PublishRequest{Queue: "uploaded", Payload: &messagev1.PublishRequest_Message{Message: "{}"}}); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "PUT", s.url+"/api/v1/cache/a", strings.NewReader(`{"value": "YQ=="}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+adminKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	const some = `[\d.]*[1-9][\d.]*`
	s.server.says(t, `"path":"/api/v1/upload",.*"postgres_ms":`+some+`,.*"s3_ms":`+some)
	s.server.says(t, `"path":"/plinth.message.v1.MessageService/Publish",.*"broker_ms":`+some)
	s.server.says(t, `"path":"/api/v1/cache/a",.*"redis_ms":`+some)
}

const completing = "plinth.file.v1.FileService/CompleteUpload"

func ofTrace(all []observetest.Span, trace string) []observetest.Span {
	return slices.DeleteFunc(slices.Clone(all), func(s observetest.Span) bool { return s.Trace != trace })
}

// upload is the call by which a file came, and what was asked of the bucket.
type upload struct {
	route, status string
	bucket        []string
}

// check checks the trace of an upload. told are the traceparents that the endpoint got.
func (u upload) check(t *testing.T, spans []observetest.Span, told []string) {
	t.Helper()
	call := observetest.Named(spans, u.route)[0]
	if call.Parent != clientSpan || call.Kind != tracev1.Span_SPAN_KIND_SERVER || call.Failed || call.Attributes["http.route"] != u.route ||
		call.Attributes["http.response.status_code"] != u.status {
		t.Errorf("call: %+v", call)
	}
	ids, asked, inserts := map[string]bool{clientSpan: true}, map[string]int{}, 0
	for _, s := range spans {
		ids[s.ID] = true
		if s.Parent == call.ID {
			asked[s.Name]++
		}
		if s.Parent == call.ID && strings.HasPrefix(s.Attributes["db.query.text"], "INSERT INTO message_waiting") {
			inserts++
		}
	}
	for _, s := range spans {
		if !ids[s.Parent] || len(s.Links) != 0 {
			t.Errorf("nothing of the trace is the parent of %+v, or it is linked", s)
		}
	}
	if asked["BEGIN"] == 0 || asked["COMMIT"] != asked["BEGIN"] || inserts != 1 {
		t.Errorf("%d inserts of the event below the call, of %v", inserts, asked)
	}
	for _, operation := range u.bucket {
		of := observetest.Named(spans, operation)
		if len(of) != 1 || of[0].Parent != call.ID || of[0].Attributes["rpc.method"] != "S3/"+operation || of[0].Kind != tracev1.Span_SPAN_KIND_CLIENT {
			t.Errorf("%s: %+v", operation, of)
		}
	}
	attempts := map[string]observetest.Span{}
	var processed, relayed, called, sent []string
	for _, s := range observetest.Named(spans, "process uploaded") {
		attempts[s.ID] = s
		processed = append(processed, fmt.Sprintf("%s %s %t %t", s.Attributes["plinth.attempt"], s.Kind, s.Failed, s.Parent == call.ID))
	}
	for _, s := range observetest.Named(spans, "relay") {
		relayed = append(relayed, fmt.Sprintf("%s %s %s %t", s.Attributes["messaging.destination.name"], s.Attributes["plinth.attempts"], s.Kind, s.Parent == call.ID))
	}
	for _, s := range observetest.Named(spans, "POST") {
		of := attempts[s.Parent]
		called = append(called, fmt.Sprintf("%s %s %s", of.Attributes["plinth.attempt"], s.Attributes["plinth.result"], s.Kind))
		sent = append(sent, "00-"+s.Trace+"-"+s.ID+"-01")
	}
	for what, is := range map[string]struct{ got, want []string }{
		"attempts": {processed, []string{"1 SPAN_KIND_CONSUMER true true", "1 SPAN_KIND_CONSUMER false true", "2 SPAN_KIND_CONSUMER true true"}},
		"relays":   {relayed, []string{"files 0 SPAN_KIND_PRODUCER true", "uploaded 0 SPAN_KIND_PRODUCER true", "uploaded 1 SPAN_KIND_PRODUCER true"}},
		"calls":    {called, []string{"1 5xx SPAN_KIND_CLIENT", "2 4xx SPAN_KIND_CLIENT", "1 2xx SPAN_KIND_CLIENT"}},
		"told":     {told, sent},
	} {
		slices.Sort(is.got)
		slices.Sort(is.want)
		if !slices.Equal(is.got, is.want) {
			t.Errorf("%s: %q, want %q", what, is.got, is.want)
		}
	}
}

// failing is an endpoint that fails, refuses and then takes the event of each file. It keeps the traceparents of its calls by trace.
type failing struct {
	mu    sync.Mutex
	calls map[string][]string
}

func (f *failing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parent := r.Header.Get("Traceparent")
	f.mu.Lock()
	defer f.mu.Unlock()
	trace := strings.Split(parent+"--", "-")[1]
	f.calls[trace] = append(f.calls[trace], parent)
	w.WriteHeader([]int{http.StatusInternalServerError, http.StatusUnprocessableEntity, http.StatusOK}[min(len(f.calls[trace]), 3)-1])
}

func (f *failing) of(trace string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls[trace])
}

// clientSpan is the span of the client of each call.
const clientSpan = "00f067aa0ba902b7"

// sendForm uploads a file as a form, in a trace.
func sendForm(t *testing.T, url, trace string) {
	t.Helper()
	var form bytes.Buffer
	fields := multipart.NewWriter(&form)
	part, err := fields.CreateFormFile("file", "form.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(part, "a form")
	_ = fields.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url+"/api/v1/upload", &form)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", fields.FormDataContentType())
	req.Header.Set("Traceparent", "00-"+trace+"-"+clientSpan+"-01")
	res, err := http1(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if reply, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", res.StatusCode, reply)
	}
}

// sendTus uploads a file by the protocol tus, in a trace.
func sendTus(t *testing.T, url, trace string) {
	t.Helper()
	parent := "00-" + trace + "-" + clientSpan + "-01"
	begun := tus(t, "POST", url+"/api/v1/uploads", nil, "Upload-Length", "4", "Upload-Metadata", "filename dHVzLnR4dA==", "Traceparent", parent)
	if begun.StatusCode != http.StatusCreated {
		t.Fatal(begun.Status)
	}
	location := begun.Header.Get("Location")
	if strings.HasPrefix(location, "/") {
		location = url + location
	}
	if sent := tus(t, "PATCH", location, strings.NewReader("tus!"), "Upload-Offset", "0", "Traceparent", parent); sent.StatusCode != http.StatusNoContent {
		t.Fatal(sent.Status)
	}
}

// sendDirect uploads a file to the bucket by a URL, whose completion is in a trace.
func sendDirect(t *testing.T, url, trace string) {
	t.Helper()
	const part = 5 << 20
	files, content := filev1.NewFileServiceClient(http1(t), url), "direct"
	upload, err := files.CreateUploadUrl(t.Context(), &filev1.CreateUploadUrlRequest{Filename: "direct.txt", Size: proto.Int64(int64(len(content))), PartSize: part})
	if err != nil {
		t.Fatal(err)
	}
	parts, err := files.CreatePartUrls(t.Context(), &filev1.CreatePartUrlsRequest{Id: upload.GetId(), First: 1, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range parts.GetParts() {
		req, err := http.NewRequestWithContext(t.Context(), of.GetMethod(), of.GetUrl(), strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range of.GetHeaders() {
			req.Header.Set(name, value)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res, err)
		}
		_ = res.Body.Close()
	}
	ctx, call := connect.NewClientContext(t.Context())
	call.RequestHeader().Set("Traceparent", "00-"+trace+"-"+clientSpan+"-01")
	if _, err := files.CompleteUpload(ctx, &filev1.CompleteUploadRequest{Id: upload.GetId()}); err != nil {
		t.Fatal(err)
	}
}
