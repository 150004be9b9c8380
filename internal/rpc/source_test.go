package rpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	filev1 "plinth/api/plinth/file/v1"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// upload is a request over HTTP/2 whose body goes on.
type upload struct {
	*peer
	status   string
	reply    []byte
	ended    bool // the reply has
	answered bool // the ping
	reset    []http2.ErrCode
	window   int
}

// begin sends the header of a request and the first part of its body. A length of 0 is not declared.
func begin(t *testing.T, url, path, contentType string, length int, body string) *upload {
	t.Helper()
	p, err := newPeer(strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.conn.Close() })
	fields := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}, {"content-type", contentType}}
	if length > 0 {
		fields = append(fields, [2]string{"content-length", strconv.Itoa(length)})
	}
	for _, f := range fields {
		_ = p.pack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	err = errors.Join(p.WriteSettings(), p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.header.Bytes(), EndHeaders: true}))
	for part := range slices.Chunk([]byte(body), 1<<14) {
		err = errors.Join(err, p.WriteData(1, false, part))
	}
	if err != nil {
		t.Fatal(err)
	}
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return &upload{peer: p, window: 1<<16 - 1 - len(body)}
}

// read reads frames until enough of them have come.
func (u *upload) read(t *testing.T, enough func() bool) {
	t.Helper()
	for !enough() {
		frame, err := u.ReadFrame()
		if err != nil {
			t.Fatalf("%v after status %s and %q, ended %t, reset %v", err, u.status, u.reply, u.ended, u.reset)
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			u.status, u.ended = f.PseudoValue("status"), f.StreamEnded()
		case *http2.DataFrame:
			u.reply, u.ended = append(u.reply, f.Data()...), f.StreamEnded()
		case *http2.RSTStreamFrame:
			u.reset = append(u.reset, f.ErrCode)
		case *http2.WindowUpdateFrame:
			if f.StreamID == 1 { // That of the connection is never smaller.
				u.window += int(f.Increment)
			}
		case *http2.PingFrame:
			u.answered = u.answered || f.IsAck()
		}
	}
}

func (u *upload) replied() bool { return strings.HasSuffix(string(u.reply), "}") }

// refusing serves routes that do not read their bodies.
func refusing(t *testing.T) fixture {
	t.Helper()
	route := func(path string, serve func(http.ResponseWriter, *http.Request) error) rpc.Route {
		return rpc.Route{Pattern: "POST " + path, Scope: "messages.publish", Stall: time.Minute, Serve: serve}
	}
	return serving(t, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Memory: 1 << 20}}, []rpc.Service{mountAll(stub{publish: answer})}, append(slices.Clone(plainRoutes),
		route("/api/v1/upload", func(http.ResponseWriter, *http.Request) error {
			return rpc.WithStatus(http.StatusRequestEntityTooLarge, errs.New(errs.ResourceExhausted, "too large"))
		}),
		route("/api/v1/ended", func(_ http.ResponseWriter, r *http.Request) error {
			rpc.End(r.Context(), errs.New(errs.Aborted, "ended"))
			_, err := io.Copy(io.Discard, r.Body)
			return err
		}),
		route("/api/v1/ignored", func(w http.ResponseWriter, _ *http.Request) error {
			_, err := io.WriteString(w, "ok")
			return err
		}))...)
}

// Over HTTP/2, what is still sent of a body that nobody wants does not reset the stream of the reply, which clients that look at
// the reset first would lose.
func TestReplyOutlivesTheBody(t *testing.T) {
	t.Parallel()
	f := refusing(t)
	for name, test := range map[string]struct {
		path, contentType string
		length            int
		body, status      string
	}{
		"no such path":            {"/nope", "", 0, "x", "404"},
		"another method":          {"/panic", "", 0, "x", "405"},
		"a plain route":           {"/api/v1/upload", "", 1 << 20, "x", "413"},
		"a query":                 {"/api/v1/upload?nope=1", "", 0, "x", "400"},
		"ended":                   {"/api/v1/ended", "", 0, "x", "409"},
		"content type":            {procedure, "text/plain", 0, "x", "415"},
		"no memory":               {procedure, "application/json", 4 << 20, "x", "429"},
		"no memory, REST":         {route, "application/json", 4 << 20, "x", "429"},
		"no memory while it came": {procedure, "application/json", 0, strings.Repeat(" ", 1<<19), "429"},
		"too large":               {procedure, "application/grpc-web", 0, "\x00\x7f\xff\xff\xff", "200"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			send := func() error {
				u := begin(t, f.url, test.path, test.contentType, test.length, test.body)
				u.read(t, func() bool { return u.replied() || test.status == "200" && u.status != "" })
				if u.status != test.status {
					t.Fatalf("status %s, want %s", u.status, test.status)
				}
				window := u.window
				for range 3 {
					if err := u.WriteData(1, false, make([]byte, 1<<14)); err != nil {
						t.Fatal(err)
					}
				}
				if name != "ended" { // of which nothing can be read
					if u.read(t, func() bool { return u.window > window || u.ended }); u.window == window {
						return errors.New("what came was not read")
					}
				}
				if err := errors.Join(u.WriteData(1, test.length == 0, nil), u.WritePing(false, [8]byte{})); err != nil {
					t.Fatal(err)
				}
				u.read(t, func() bool { return u.ended && u.answered })
				if slices.Contains(u.reset, http2.ErrCodeStreamClosed) {
					return errors.New("the stream was reset")
				}
				return nil
			}
			err := send()
			for range 4 { // A machine that stands still for longer than the server waits makes no difference.
				if err != nil {
					err = send()
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Nobody waits long for the rest of a body, or reads much of it.
func TestRestOfABodyIsNotAwaited(t *testing.T) {
	t.Parallel()
	f := refusing(t)
	u := begin(t, f.url, "/nope", "", 0, "x")
	u.read(t, func() bool { return u.ended && len(u.reset) > 0 })

	u, sent := begin(t, f.url, "/nope", "", 0, "x"), 0
	u.read(t, func() bool {
		for ; !u.ended && u.window >= 1<<14; u.window -= 1 << 14 {
			if err := u.WriteData(1, false, make([]byte, 1<<14)); err != nil {
				t.Fatal(err)
			}
			sent += 1 << 14
		}
		return u.ended
	})
	if sent > 3*rpc.MaxMessageBytes/2 {
		t.Errorf("%d bytes were read", sent)
	}
}

// A reply is sent at once, and with its length, if there is no rest of the body.
func TestNothingIsAwaitedAfterTheBody(t *testing.T) {
	t.Parallel()
	f := refusing(t)
	for path, length := range map[string]int64{procedure: 2, route: 2, "/api/v1/ignored": -1} {
		req, _ := http.NewRequest(http.MethodPost, f.url+path, strings.NewReader(good))
		req.Header.Set("Content-Type", "application/json")
		res, err := h2c().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if (res.ContentLength < 0) != (length < 0) {
			t.Errorf("%s: a reply of %d bytes", path, res.ContentLength)
		}
	}
}

// receiver receives a stream to its end.
type receiver struct {
	filev1.UnimplementedFileServiceHandler
}

func (receiver) UploadFile(_ context.Context, stream *connect.ClientStream[filev1.UploadFileRequest]) (*filev1.File, error) {
	for stream.Receive() {
	}
	return nil, stream.Err()
}

// What is wrong with the framing of a body is the client's mistake.
func TestMalformedBodies(t *testing.T) {
	t.Parallel()
	f := serving(t, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Memory: 64 << 20}}, []rpc.Service{
		mountAll(stub{publish: answer}),
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return filev1.NewFileServiceHandler(receiver{}, o...)
		},
	}, rpc.Route{
		Pattern: "POST /api/v1/ours", Scope: "messages.publish", Stall: time.Minute,
		Serve: func(_ http.ResponseWriter, r *http.Request) error { _, err := io.Copy(io.Discard, r.Body); return err },
	})
	const stream = "/plinth.file.v1.FileService/UploadFile"
	for path, kind := range map[string]string{
		procedure: "application/json", route: "application/json", "/api/v1/ours": "application/json", stream: "application/connect+json",
	} {
		status := "400"
		if path == stream {
			status = "200" // Its error is the last message.
		}
		for name, body := range map[string]string{
			"no number":           "zz\r\n",
			"nothing":             "\r\n",
			"a negative number":   "-1\r\n",
			"a number too large":  "fffffffffffffffff\r\n",
			"a line too long":     strings.Repeat("0", 5000) + "\r\n",
			"more than announced": "1\r\n{}\r\n0\r\n\r\n",
			"a chunk, then none":  "1\r\n{\r\nzz\r\n",
			"a bad trailer":       "0\r\nno colon\r\n\r\n",
		} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			header := strings.Replace(head(path), "application/json", kind, 1)
			if _, err := io.WriteString(conn, header+"Transfer-Encoding: chunked\r\n\r\n"+body); err != nil {
				t.Fatal(err)
			}
			reply, _ := io.ReadAll(conn)
			_ = conn.Close()
			if text := string(reply); !strings.HasPrefix(text, "HTTP/1.1 "+status) || !strings.Contains(text, "invalid_argument") ||
				!strings.Contains(text, "the body is malformed") || strings.Contains(text, "chunk length") {
				t.Errorf("%s, %s: %q", path, name, text)
			}
		}
		u := begin(t, f.url, path, kind, 100, "{")
		if err := u.WriteData(1, true, nil); err != nil {
			t.Fatal(err)
		}
		u.read(t, func() bool { return u.ended })
		if u.status != status || !strings.Contains(string(u.reply), "the body is malformed") {
			t.Errorf("%s, shorter than announced: %s %s", path, u.status, u.reply)
		}
	}
}
