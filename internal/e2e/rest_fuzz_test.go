package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"plinth/api"
	"plinth/internal/blob/blobtest"
)

// fuzzing is the number of requests, and the seed of what is in them.
const (
	fuzzShort = 1_500
	fuzzLong  = 10_000 // if CI is true
	fuzzSeed  = 28
)

// TestRESTFuzz sends odd names, queries, types, encodings and bodies to every route of the document. No reply may be a fault of
// the server or be off the document, the log has no error, and what is answered 200 is done.
func TestRESTFuzz(t *testing.T) {
	t.Parallel()
	env := with(with(backends(t, "postgres"), blobtest.New(t).Env()), map[string]string{"LOG_FORMAT": "json"})
	server := start(t, "server", env)
	t.Cleanup(func() { server.stop(t) })
	base := "http://" + server.address(t)
	ready(t, base)

	f := newFuzzer(t, base)
	n := fuzzShort
	if ci() {
		n = fuzzLong
	}
	const clients = 8
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			random := &oddities{rand.New(rand.NewPCG(fuzzSeed, uint64(client)))}
			for range n / clients {
				f.try(t, random)
			}
		})
	}
	all.Wait()
	f.strangePages(t)
	if f.done < n/30 {
		t.Errorf("only %d of %d requests were answered 200: the test has no teeth", f.done, n)
	}
	lines, _ := server.log.from(0)
	for _, line := range lines {
		if strings.Contains(line, `"level":"error"`) {
			t.Errorf("the log has %s", line)
		}
	}
}

// fuzzed is a route of the document.
type fuzzed struct {
	method, path string
	procedure    protoreflect.FullName
	query        []string
	schema       map[string]any // of the body; nil if there is none
}

type fuzzer struct {
	base    string
	client  *http.Client
	routes  []fuzzed
	schemas map[string]any

	mu   sync.Mutex
	done int // requests that were answered 200
}

func newFuzzer(t *testing.T, base string) *fuzzer {
	t.Helper()
	var doc struct {
		Paths      map[string]map[string]map[string]any
		Components struct{ Schemas map[string]any }
	}
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	f := &fuzzer{base: base, schemas: doc.Components.Schemas, client: &http.Client{
		Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			operation := doc.Paths[path][method]
			id, _ := operation["operationId"].(string)
			r := fuzzed{method: strings.ToUpper(method), path: path, procedure: procedureOf(id)}
			if r.procedure == "" {
				continue // A plain route has tests of its own.
			}
			parameters, _ := operation["parameters"].([]any)
			for _, p := range parameters {
				if p, _ := p.(map[string]any); p["in"] == "query" {
					r.query = append(r.query, fmt.Sprint(p["name"]))
				}
			}
			if body, ok := operation["requestBody"].(map[string]any); ok {
				content, _ := body["content"].(map[string]any)
				inJSON, _ := content["application/json"].(map[string]any)
				r.schema, _ = inJSON["schema"].(map[string]any)
			}
			f.routes = append(f.routes, r)
		}
	}
	if len(f.routes) < 30 {
		t.Fatalf("only %d routes are in the document", len(f.routes))
	}
	return f
}

// procedureOf returns the RPC of an operation, such as MessageService_Publish.
func procedureOf(id string) protoreflect.FullName {
	for _, m := range ourMethods() {
		if id == string(m.Parent().Name())+"_"+string(m.Name()) {
			return m.FullName()
		}
	}
	return ""
}

var hole = regexp.MustCompile(`\{\w+\}`)

// try sends one request and judges the reply.
func (f *fuzzer) try(t *testing.T, o *oddities) {
	r := f.routes[o.IntN(len(f.routes))]
	path := hole.ReplaceAllStringFunc(r.path, func(string) string { return o.segment() })
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return
	}
	req := &http.Request{Method: r.method, Header: http.Header{}}
	if req.URL, err = url.Parse(f.base); err != nil {
		t.Error(err)
		return
	}
	req.URL.Path, req.URL.RawPath, req.URL.RawQuery = decoded, path, o.query(r.query)
	req.Header.Set("Authorization", "Bearer "+adminKey)
	body := o.body(f, r)
	if body != nil {
		req.Header.Set("Content-Type", o.contentType())
		if o.chance(10) {
			body = o.pack(req.Header, body)
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		if o.chance(2) {
			req.ContentLength = int64(len(body))
		}
	}
	o.headers(req.Header)
	what := fmt.Sprintf("%s %s?%s %v %.300q", r.method, path, req.URL.RawQuery, req.Header, body)
	res, err := f.client.Do(req)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer func() { _ = res.Body.Close() }()
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return // It does not end.
	}
	reply, err := io.ReadAll(res.Body)
	if err == nil {
		err = f.judge(r, path, res, reply)
	}
	if err != nil {
		t.Errorf("%s\n%d %.500q: %v", what, res.StatusCode, reply, err)
	}
}

// judge returns what is wrong with a reply.
func (f *fuzzer) judge(r fuzzed, path string, res *http.Response, reply []byte) error {
	if res.Header.Get("Content-Type") != "application/json" || res.Header.Get("X-Request-Id") == "" {
		return fmt.Errorf("the header is %v", res.Header)
	}
	if res.StatusCode != http.StatusOK {
		var wire struct {
			Code    connect.Code
			Message string
		}
		if err := json.Unmarshal(reply, &wire); err != nil || res.StatusCode < 400 || res.StatusCode >= 500 || wire.Message == "" {
			return fmt.Errorf("it is no error of a client: %w", err)
		}
		if strings.Contains(wire.Message, "proto:") || strings.Contains(wire.Message, "v1.") {
			return fmt.Errorf("the message is a library's")
		}
		return nil
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(r.procedure)
	if err != nil {
		return err
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.(protoreflect.MethodDescriptor).Output().FullName())
	if err != nil {
		return err
	}
	m := kind.New()
	if err := protojson.Unmarshal(reply, m.Interface()); err != nil {
		return fmt.Errorf("it is not the response of %s: %w", r.procedure, err)
	}
	f.mu.Lock()
	f.done++
	f.mu.Unlock()
	return f.effect(r, path, m)
}

// effect returns an error if what was answered 200 was not done.
func (f *fuzzer) effect(r fuzzed, path string, m protoreflect.Message) error {
	text := func(field protoreflect.Name) string { return m.Get(m.Descriptor().Fields().ByName(field)).String() }
	switch r.procedure.Name() {
	case "Publish":
		if len(text("id")) != 36 {
			return fmt.Errorf("nothing was published")
		}
	case "GetQueue", "UpdateQueue", "PauseQueue", "ResumeQueue", "GetTenant", "UpdateTenant":
		segment := strings.Split(strings.TrimPrefix(path, "/api/v1/"), "/")[1]
		segment, _, _ = strings.Cut(segment, ":")
		if want, _ := url.PathUnescape(segment); text("name") != want {
			return fmt.Errorf("it is another one than %q", want)
		}
	}
	return nil
}

// strangePages asks every list for a page by a token that nobody has handed out.
func (f *fuzzer) strangePages(t *testing.T) {
	t.Helper()
	for _, r := range f.routes {
		if r.method != http.MethodGet || !slices.Contains(r.query, "pageToken") {
			continue
		}
		req, err := http.NewRequestWithContext(t.Context(), r.method, f.base+hole.ReplaceAllString(r.path, taskQueue)+"?pageToken=x", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+adminKey)
		res, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		reply, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		absent := res.StatusCode == http.StatusNotFound && hole.MatchString(r.path)
		if !absent && (res.StatusCode != http.StatusBadRequest || !bytes.Contains(reply, []byte("page_token"))) {
			t.Errorf("%s: %d %s", r.path, res.StatusCode, reply)
		}
	}
}
