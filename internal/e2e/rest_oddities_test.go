package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
)

// oddities are what clients send by mistake or on purpose. About half of it is right.
type oddities struct{ *rand.Rand }

func (o *oddities) chance(oneIn int) bool { return o.IntN(oneIn) == 0 }

func (o *oddities) of(texts ...string) string { return texts[o.IntN(len(texts))] }

var strange = []string{
	"", " ", ".", "..", "../..", "%", "%25", "%2F", "a/b", "a%2Fb", "a:b", ":", ":pause", "a:pause", "*", "**", "{name}", "?", "#", "&a=b", "a;b",
	"\x00", "\x01", "\x7f", "\n", "\r\n", "\t", "é", "e\u0301", "日本", "\u202e", "\ufeff", "\u0000x", "\xff", "\xc3", "\xed\xa0\x80", "😀",
	"'", `"`, `\`, "<b>", "' OR 1=1 --", "$1", "null", "NULL", "true", "-1", "0", "1e9", "NaN", "9223372036854775808", "default",
	"01a207b7-cfee-74eb-a938-89f827930982", "00000000-0000-0000-0000-000000000000", "1s", "-1s", "0.1s", "99999999999s", "2026-01-02T03:04:05Z",
	"10000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "YQ==", "messages.publish", "1000/s",
}

// text returns a name that is right, or anything else.
func (o *oddities) text() string {
	switch {
	case o.chance(2):
		return o.of("orders", "billing", "acme", "a", "q-1", "x.y_z")
	case o.chance(20):
		return strings.Repeat(o.of("a", "é", "%", "\x00"), 1<<o.IntN(11))
	}
	return o.of(strange...)
}

// segment returns a segment of a path, escaped or as a careless client sends it.
func (o *oddities) segment() string {
	text := o.text()
	if o.chance(4) {
		text = strings.Map(func(r rune) rune { // What cannot be in a request line.
			if r <= ' ' || r == 0x7f || r == '?' || r == '#' {
				return -1
			}
			return r
		}, text)
		if _, err := url.PathUnescape(text); err == nil {
			return text
		}
	}
	return url.PathEscape(text)
}

func (o *oddities) query(known []string) string {
	var parts []string
	for range o.IntN(3) {
		name := o.of("name", "queue", "nope", "", ".", "a.b", "filter", "filter.", "update_mask", "id", "page_size.x")
		if len(known) > 0 && !o.chance(4) {
			name = o.of(known...)
		}
		value := url.QueryEscape(o.text())
		if o.chance(10) {
			value = o.text()
		}
		parts = append(parts, url.QueryEscape(name)+"="+value)
	}
	// What Go's client would refuse to send is no request.
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return -1
		}
		return r
	}, strings.Join(parts, o.of("&", "&", "&", ";", "&&")))
}

func (o *oddities) contentType() string {
	if !o.chance(4) {
		return "application/json"
	}
	return o.of("", "text/plain", "application/json; charset=utf-8", "application/json;charset=latin1", "APPLICATION/JSON", "application/grpc",
		"application/grpc-web+proto", "application/connect+json", "application/proto", "application/rest", "multipart/form-data", ";", "a/b/c",
		"application/x-www-form-urlencoded")
}

func (o *oddities) headers(h http.Header) {
	if !o.chance(6) {
		return
	}
	h[o.of("X-Tenant", "X-Server-Timeout", "Accept-Encoding", "Connect-Protocol-Version", "Connect-Timeout-Ms", "Grpc-Timeout", "If-None-Match",
		"If-Match", "Accept", "Range", "X-Request-Id", "Traceparent", "Content-Encoding", "X-Http-Method-Override")] = []string{
		o.of("default", "acme", "nobody", "gzip", "*", "1", "-1", "NaN", "999", `"x"`, "bytes=0-0", "DELETE", ",", "identity")}
}

// pack compresses a body, or only says so.
func (o *oddities) pack(h http.Header, body []byte) []byte {
	h.Set("Content-Encoding", o.of("gzip", "gzip", "gzip", "GZIP", "br", "gzip, gzip", "identity"))
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(body)
	_ = w.Close()
	switch o.IntN(4) {
	case 0:
		return body
	case 1:
		return b.Bytes()[:o.IntN(b.Len())]
	default:
		return b.Bytes()
	}
}

// body returns a body after the schema of a route, with mistakes. It returns nil for none.
func (o *oddities) body(f *fuzzer, r fuzzed) []byte {
	if r.schema == nil && !o.chance(8) || o.chance(20) {
		return nil
	}
	if o.chance(10) {
		return []byte(o.of("", "null", "[]", "{", `{"a":}`, "\xff\xfe", `"x"`, "{}{}", "1", strings.Repeat("[", 5000), strings.Repeat(`{"a":`, 200), "\ufeff{}"))
	}
	data, err := json.Marshal(o.value(f, r.schema, 0))
	if err != nil {
		return []byte("{}")
	}
	if o.chance(12) {
		data[o.IntN(len(data))] = byte(o.IntN(256))
	}
	return data
}

// value returns a value after a schema, or one of another kind.
func (o *oddities) value(f *fuzzer, schema map[string]any, depth int) any {
	if name, ok := schema["$ref"].(string); ok {
		name = name[strings.LastIndexByte(name, '/')+1:]
		switch name {
		case "google.protobuf.Duration":
			return o.of("1s", "0.5s", "0s", "-1s", "60s", "3600s", "x", "1")
		case "google.protobuf.Timestamp":
			return o.of("2026-01-02T03:04:05Z", "2030-01-02T03:04:05.123456789+01:00", "x", "0001-01-01T00:00:00Z", "10000-01-01T00:00:00Z")
		}
		schema, _ = f.schemas[name].(map[string]any)
	}
	if o.chance(15) || depth > 4 {
		return []any{nil, true, -1, 1e300, "x", []any{}, map[string]any{}, o.text()}[o.IntN(8)]
	}
	fields := map[string]any{}
	o.fields(f, schema, fields, depth)
	if len(fields) > 0 {
		return fields
	}
	if enum, ok := schema["enum"].([]any); ok && len(enum) > 0 {
		return enum[o.IntN(len(enum))]
	}
	items, _ := schema["items"].(map[string]any)
	switch kind := schema["type"]; {
	case kind == "array":
		list := []any{}
		for range o.IntN(3) {
			list = append(list, o.value(f, items, depth+1))
		}
		return list
	case kind == "object":
		return map[string]any{o.text(): o.text()}
	case kind == "boolean":
		return o.chance(2)
	case kind == "integer", kind == "number":
		return []any{0, 1, 7, 100, -1, 1 << 40, 1.5, "3"}[o.IntN(8)]
	}
	return o.text()
}

// fields adds values of the properties of an object, also of those of which one is to be chosen.
func (o *oddities) fields(f *fuzzer, schema, to map[string]any, depth int) {
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		if property, ok := property.(map[string]any); ok && !o.chance(3) {
			to[name] = o.value(f, property, depth+1)
		}
	}
	all, _ := schema["allOf"].([]any)
	for _, part := range all {
		if part, ok := part.(map[string]any); ok {
			o.fields(f, part, to, depth)
		}
	}
	if one, _ := schema["oneOf"].([]any); len(one) > 0 {
		if part, ok := one[o.IntN(len(one))].(map[string]any); ok {
			o.fields(f, part, to, depth)
		}
	}
}
