package rpc_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap/zapcore"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

// foreign matches what only a library says: names of packages, of Go types, and of protobuf's packages.
var foreign = regexp.MustCompile(`(?i:unmarshal|connect\.|connectrpc|protojson|proto:|\*messagev1|\bv1\.|http\.|MaxBytes|protocol error|promised|strconv|gzip:|flate|decompress|configured max|illegal base64|127\.0\.0\.1)|\bEOF\b`)

// zipped returns data in gzip.
func zipped(data string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, data)
	_ = w.Close()
	return b.String()
}

// framed returns a message with the prefix of an envelope.
func framed(flags byte, message string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message)))) + message
}

// No library's text reaches a client, whatever is wrong with its request and whatever it speaks, and nothing of it is the
// server's fault.
func TestNoTextOfALibrary(t *testing.T) {
	t.Parallel()
	const consume = "/plinth.message.v1.MessageService/Consume"
	huge := strings.Repeat("a", rpc.MaxMessageBytes+1)
	inJSON := map[string][2]string{ // what is sent, and what the reply says
		"cut off":         {`{"queue":`, "does not parse: it ends early"},
		"no JSON":         {"\xff\xfe", "does not parse"},
		"no UTF-8":        {"{\"queue\":\"\xff\"}", "does not parse"},
		"no object":       {`[]`, "does not parse"},
		"wrong type":      {`{"queue":5}`, "does not parse: (line 1:10): invalid value for string field queue: 5"},
		"twice":           {`{"queue":"a","queue":"b"}`, "does not parse"},
		"two of a oneof":  {`{"queue":"a","message":"a","data":"aa"}`, `another one of the fields that exclude each other is set already`},
		"no duration":     {`{"queue":"a","message":"a","delay":"x"}`, "is not allowed; a duration in seconds, such as 1.5s, is"},
		"no base64":       {`{"queue":"a","data":"a.b!"}`, "a.b!"},
		"a fraction":      {`{"queue":1.5}`, "invalid value for string field queue: 1.5"},
		"quotes a prefix": {`{"queue":"proto: a` + "\n" + `"}`, "does not parse"},
		"deep":            {strings.Repeat(`{"attributes":`, 20_000), ""},
		"too large":       {`{"queue":"` + huge + `"}`, "larger than 4194304 bytes"},
	}
	inProto := map[string][2]string{
		"cut off":      {"\x0a\x05a", "does not parse"},
		"no UTF-8":     {"\x0a\x01\xff", "does not parse"},
		"no tag":       {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "does not parse"},
		"end of group": {"\x0c", "does not parse"},
		"too large":    {huge, "larger than 4194304 bytes"},
	}
	requests := map[string]func() (*http.Request, string){}
	add := func(name, path, kind, body, want string, headers ...string) {
		requests[name+", "+kind] = func() (*http.Request, string) {
			req, _ := http.NewRequest("POST", path, strings.NewReader(body))
			req.Header.Set("Content-Type", kind)
			for i := 0; i < len(headers); i += 2 {
				req.Header.Set(headers[i], headers[i+1])
			}
			return req, want
		}
	}
	kinds := []struct{ path, kind, encoding, timeout string }{
		{procedure, "application/json", "Content-Encoding", "Connect-Timeout-Ms"},
		{procedure, "application/proto", "Content-Encoding", "Connect-Timeout-Ms"},
		{procedure, "application/grpc", "Grpc-Encoding", "Grpc-Timeout"},
		{procedure, "application/grpc+json", "Grpc-Encoding", "Grpc-Timeout"},
		{procedure, "application/grpc-web+proto", "Grpc-Encoding", "Grpc-Timeout"},
		{procedure, "application/grpc-web+json", "Grpc-Encoding", "Grpc-Timeout"},
		{consume, "application/connect+json", "Connect-Content-Encoding", "Connect-Timeout-Ms"},
		{consume, "application/connect+proto", "Connect-Content-Encoding", "Connect-Timeout-Ms"},
		{consume, "application/grpc", "Grpc-Encoding", "Grpc-Timeout"},
		{consume, "application/grpc-web+json", "Grpc-Encoding", "Grpc-Timeout"},
		{route, "application/json", "Content-Encoding", ""},
	}
	for _, k := range kinds {
		frame := func(_ byte, message string) string { return message }
		enveloped := strings.Contains(k.kind, "grpc") || strings.Contains(k.kind, "connect")
		if enveloped {
			frame = framed
		}
		faults := inProto
		if strings.Contains(k.kind, "json") {
			faults = inJSON
		}
		where := k.path[strings.LastIndex(k.path, "/")+1:] + " "
		if enveloped && k.path == procedure {
			one := framed(0, "\x0a\x01q")
			if strings.Contains(k.kind, "json") {
				one = framed(0, good)
			}
			add(where+"two messages", k.path, k.kind, one+one, "more than one message; one is allowed")
		}
		for name, fault := range faults {
			want := fault[1]
			if k.path == consume && name != "no JSON" && name != "no object" && name != "cut off" && name != "no tag" && name != "too large" {
				want = "" // Unknown fields are none of its business.
			}
			add(where+name, k.path, k.kind, frame(0, fault[0]), want)
			if name != "too large" {
				add(where+name+" in gzip", k.path, k.kind, frame(1, zipped(fault[0])), want, k.encoding, "gzip")
			}
		}
		add(where+"no gzip", k.path, k.kind, frame(1, "no gzip at all"), "no gzip", k.encoding, "gzip")
		add(where+"half a gzip", k.path, k.kind, frame(1, zipped(good + huge)[:1000]), "no gzip", k.encoding, "gzip")
		add(where+"broken gzip", k.path, k.kind, frame(1, zipped(good)[:12]+"\xff\xff\xff\xff\xff\xff"), "no gzip", k.encoding, "gzip")
		add(where+"inflated", k.path, k.kind, frame(1, zipped(huge)), "larger than 4194304 bytes", k.encoding, "gzip")
		add(where+"unknown encoding", k.path, k.kind, frame(1, "x"), "", k.encoding, "br")
		for _, timeout := range []string{"soon", "-1", "99999999999999", "-5S", "123456789S", "1x"} {
			if k.timeout != "" {
				add(where+"timeout "+timeout, k.path, k.kind, frame(0, ""), "are allowed", k.timeout, timeout)
			}
		}
		if enveloped {
			add(where+"half a prefix", k.path, k.kind, "\x00\x00", "incomplete")
			add(where+"half a message", k.path, k.kind, framed(0, good)[:10], "incomplete")
			add(where+"a length beyond all", k.path, k.kind, "\x00\xff\xff\xff\xff", "larger than 4194304 bytes")
			add(where+"flags", k.path, k.kind, framed(4, good), "flags")
			add(where+"gzip that is not announced", k.path, k.kind, framed(1, zipped(good)), "no header says how")
		}
		if enveloped && k.path == procedure {
			add(where+"no message", k.path, k.kind, "", "no message")
		}
	}
	for name, message := range map[string]string{"base64": "!!!", "JSON": base64.RawURLEncoding.EncodeToString([]byte("{"))} {
		requests["GET "+name] = func() (*http.Request, string) {
			req, _ := http.NewRequest("GET", "/plinth.message.v1.MessageService/GetMessage?connect=v1&encoding=json&base64=1&message="+message, nil)
			return req, ""
		}
	}
	f := newFixture(t, stub{publish: answer, consume: func(_ context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
		for {
			if _, err := stream.Receive(); err != nil {
				return err
			}
		}
	}}, time.Minute)
	client := h2c()
	for name, request := range requests {
		req, want := request()
		req.URL, _ = url.Parse(f.url + req.URL.String())
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		text := string(data)
		for _, header := range []http.Header{res.Header, res.Trailer} {
			message, _ := url.PathUnescape(header.Get("Grpc-Message"))
			details, _ := connect.DecodeBinaryHeader(header.Get("Grpc-Status-Details-Bin"))
			text += message + string(details)
		}
		if found := foreign.FindString(text); err != nil || found != "" || !strings.Contains(text, want) {
			t.Errorf("%s: %q of a library, want %q: %.600q, %v", name, found, want, text, err)
		}
	}
	for _, entry := range f.logs.All() {
		if entry.Level >= zapcore.ErrorLevel {
			t.Errorf("the log takes it for the server's fault: %v", entry.ContextMap())
		}
	}
}
