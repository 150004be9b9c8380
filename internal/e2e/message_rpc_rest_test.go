package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
)

// overREST turns a client that speaks Connect with JSON into one that speaks REST: each call goes to the RPC's route in the
// proto. The replies and errors of the two are the same.
func overREST(client func(testing.TB) *http.Client) func(testing.TB) *http.Client {
	return func(t testing.TB) *http.Client {
		rest := client(t)
		rest.Transport = restTransport{rest.Transport}
		return rest
	}
}

type restTransport struct{ http.RoundTripper }

func (r restTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	raw, err := io.ReadAll(req.Body)
	_ = req.Body.Close()
	if err != nil {
		return nil, err
	}
	fields := map[string]any{}
	streams := req.Header.Get("Content-Type") == "application/connect+json"
	if streams {
		raw = raw[min(len(raw), envelope):]
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	method, pattern, hasBody := route(req.URL.Path)
	req.Method, req.URL.Path, req.URL.RawPath = method, fill(pattern, fields), ""
	req.Body, req.ContentLength = http.NoBody, 0
	for _, connects := range []string{"Connect-Protocol-Version", "Connect-Timeout-Ms", "Content-Type"} {
		req.Header.Del(connects)
	}
	if hasBody {
		if raw, err = json.Marshal(fields); err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
	} else {
		query := url.Values{}
		flatten(query, "", fields)
		req.URL.RawQuery = query.Encode()
	}
	res, err := r.RoundTripper.RoundTrip(req)
	if err != nil || !streams {
		return res, err
	}
	return fromEvents(res)
}

// envelope is how many bytes are before each message of a stream of Connect.
const envelope = 5

// fromEvents turns a reply of Server-Sent Events, or of an error, into a stream of Connect.
func fromEvents(res *http.Response) (*http.Response, error) {
	events := res.Body
	read, write := io.Pipe()
	frame := func(flags byte, data []byte) {
		n := len(data)
		head := []byte{flags, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
		_, _ = write.Write(append(head, data...))
	}
	failed := res.StatusCode != http.StatusOK
	go func() {
		defer func() { _ = events.Close(); _ = write.Close() }()
		end := []byte("{}")
		if failed {
			data, _ := io.ReadAll(events)
			frame(2, []byte(`{"error":`+string(data)+"}"))
			return
		}
		lines, isError := bufio.NewScanner(events), false
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			data, isData := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
			switch {
			case lines.Text() == "event: error":
				isError = true
			case isData && isError:
				end = []byte(`{"error":` + string(data) + "}")
			case isData:
				frame(0, data)
			}
		}
		frame(2, end)
	}()
	res.StatusCode, res.Status, res.Body, res.ContentLength = http.StatusOK, "200 OK", streamBody{read, events}, -1
	res.Header.Set("Content-Type", "application/connect+json")
	return res, nil
}

// streamBody is the body of a stream, whose end closes that of the events.
type streamBody struct {
	*io.PipeReader
	events io.Closer
}

func (b streamBody) Close() error {
	_ = b.events.Close()
	return b.PipeReader.Close()
}

// route returns the route of a procedure in its proto. For an RPC that has none it returns one that the server answers with an
// error.
func route(procedure string) (method, pattern string, hasBody bool) {
	for _, m := range ourMethods() {
		if procedure != "/"+string(m.Parent().FullName())+"/"+string(m.Name()) {
			continue
		}
		rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
		switch pattern := rule.GetPattern().(type) {
		case *annotations.HttpRule_Get:
			return http.MethodGet, pattern.Get, false
		case *annotations.HttpRule_Delete:
			return http.MethodDelete, pattern.Delete, false
		case *annotations.HttpRule_Patch:
			return http.MethodPatch, pattern.Patch, true
		case *annotations.HttpRule_Put:
			return http.MethodPut, pattern.Put, true
		case *annotations.HttpRule_Post:
			return http.MethodPost, pattern.Post, true
		}
	}
	return http.MethodPost, "/api/none", true
}

var placeholder = regexp.MustCompile(`\{(\w+)\}`)

// fill puts fields into the path, and removes them from fields.
func fill(pattern string, fields map[string]any) string {
	return placeholder.ReplaceAllStringFunc(pattern, func(hole string) string {
		name := hole[1 : len(hole)-1]
		value, _ := fields[name].(string)
		delete(fields, name)
		return value
	})
}

// flatten adds fields to a query. Those of nested messages have names with dots.
func flatten(query url.Values, prefix string, fields map[string]any) {
	for name, value := range fields {
		switch value := value.(type) {
		case map[string]any:
			flatten(query, prefix+name+".", value)
		case []any:
			for _, item := range value {
				query.Add(prefix+name, fmt.Sprint(item))
			}
		default:
			query.Set(prefix+name, fmt.Sprint(value))
		}
	}
}
