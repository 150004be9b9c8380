package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// overREST makes a client that speaks REST for one that speaks Connect with JSON, whose replies and errors are the same:
// it takes each call to the route that the proto gives the RPC.
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
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	method, pattern, hasBody := route(path.Base(req.URL.Path))
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
	return r.RoundTripper.RoundTrip(req)
}

// route is what the proto says of an RPC. There is none for an RPC without a route: the server then answers with an error.
func route(rpc string) (method, pattern string, hasBody bool) {
	for _, m := range ourMethods() {
		if m.Name() != protoreflect.Name(rpc) {
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
		case *annotations.HttpRule_Post:
			return http.MethodPost, pattern.Post, true
		}
	}
	return http.MethodPost, "/api/none", true
}

var placeholder = regexp.MustCompile(`\{(\w+)\}`)

// fill puts fields into the path, and takes them from those that are left.
func fill(pattern string, fields map[string]any) string {
	return placeholder.ReplaceAllStringFunc(pattern, func(hole string) string {
		name := hole[1 : len(hole)-1]
		value, _ := fields[name].(string)
		delete(fields, name)
		return value
	})
}

// flatten makes a query of fields: those of a message in a message have names with dots.
func flatten(query url.Values, prefix string, fields map[string]any) {
	for name, value := range fields {
		switch value := value.(type) {
		case map[string]any:
			flatten(query, prefix+name+".", value)
		default:
			query.Set(prefix+name, fmt.Sprint(value))
		}
	}
}
