package file

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/blob/blobtest"
	"plinth/internal/rpc"
)

// site serves the plain routes behind the stack, for the tenant acme.
type site struct {
	fixture
	url string
}

func newSite(t *testing.T, limits Limits) site {
	t.Helper()
	limits.Stall = cmp.Or(limits.Stall, time.Minute) // With none, a route has the deadline of other calls.
	f := newFixture(t, limits)
	stack := rpc.New(rpc.Config{
		Log: zap.NewNop(), Timeout: patience,
		Authenticate: func(context.Context, string) (*auth.Principal, error) {
			return &auth.Principal{ID: "key:1", Tenant: auth.Tenant{Name: "acme"}, Scopes: []string{"*"}}, nil
		},
	})
	handler, err := stack.Handler(nil, NewHTTP(f.Service).Routes())
	if err != nil {
		t.Fatal(err)
	}
	return site{f, serve(t, handler)}
}

// serve serves a handler as the port does. Its connections hold little, so that it notices how a client reads.
func serve(t *testing.T, handler http.Handler) (url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.Config = rpc.NewServer(handler, zap.NewNop())
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		_ = conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
		return ctx
	}
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// do sends a request. Headers are names and values.
func (s site) do(t *testing.T, method, path string, body io.Reader, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer x")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	client := http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, text
}

// uploaded is the File of a reply.
func uploaded(t *testing.T, res *http.Response, text []byte) (f struct {
	ID, Filename, Checksum, ContentType, State, Folder string
	Size                                               string
	Attributes                                         map[string]string
	Duplicate                                          bool
},
) {
	t.Helper()
	if err := json.Unmarshal(text, &f); err != nil || res.StatusCode != 200 {
		t.Fatalf("%d %s %v", res.StatusCode, text, err)
	}
	return f
}

// wantError wants an error in the one shape, without a word of what stands behind the service.
func wantError(t *testing.T, res *http.Response, text []byte, status int, code, says string) {
	t.Helper()
	var e struct{ Code, Message string }
	if err := json.Unmarshal(text, &e); err != nil || res.StatusCode != status || e.Code != code || !strings.Contains(e.Message, says) {
		t.Errorf("%d %s, want %d %s with %q", res.StatusCode, text, status, code, says)
	}
	for _, word := range []string{"S3", "bucket", "SELECT", "acme/", "Code>"} {
		if strings.Contains(e.Message, word) {
			t.Errorf("%s tells of %q", text, word)
		}
	}
	if res.Header.Get("X-Request-Id") == "" {
		t.Error("an error has no request id")
	}
}

func digestOf(content []byte) string {
	s := sha256.Sum256(content)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(s[:]) + ":"
}

func TestUploadByHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{})
	for _, size := range []int{0, 1, 100_000, partSize + 1} {
		content := random(size)
		form := written(t, content, "a", "1")
		for name, try := range map[string]func() (*http.Response, []byte){
			"form": func() (*http.Response, []byte) {
				return s.do(t, "POST", "/api/v1/upload?folder=x", bytes.NewReader(form), "Content-Type", formType)
			},
			"form without its last line break": func() (*http.Response, []byte) {
				return s.do(t, "POST", "/api/v1/upload?folder=x", bytes.NewReader(form[:len(form)-2]), "Content-Type", formType)
			},
			"form of unknown length": func() (*http.Response, []byte) {
				return s.do(t, "POST", "/api/v1/upload?folder=x", hidden{bytes.NewReader(form)}, "Content-Type", formType)
			},
			"PUT": func() (*http.Response, []byte) {
				return s.do(t, "PUT", "/api/v1/upload/a.bin?folder=x&attributes.a=1", bytes.NewReader(content), "Repr-Digest", digestOf(content))
			},
			"POST of unknown length": func() (*http.Response, []byte) {
				return s.do(t, "POST", "/api/v1/upload?folder=x&attributes.a=1&filename=a.bin", hidden{bytes.NewReader(content)}, "Content-Type", "application/octet-stream")
			},
		} {
			res, text := try()
			f := uploaded(t, res, text)
			if f.Filename != "a.bin" || f.Checksum != sum(content) || f.Folder != "x" || f.Attributes["a"] != "1" || f.State != "FILE_STATE_READY" ||
				size > 0 && f.Size != fmt.Sprint(size) || res.Header.Get("Repr-Digest") != digestOf(content) {
				t.Errorf("%s of %d bytes: %s", name, size, text)
			}
			got, body := s.do(t, "GET", "/api/v1/files/"+f.ID+"/content", nil)
			if got.StatusCode != 200 || !bytes.Equal(body, content) || got.ContentLength != int64(size) {
				t.Errorf("%s of %d bytes: %d, %d bytes", name, size, got.StatusCode, len(body))
			}
		}
	}
	name := url.PathEscape("über 文件 100%.txt")
	res, text := s.do(t, "PUT", "/api/v1/upload/"+name, strings.NewReader("x"), "Idempotency-Key", "k")
	first := uploaded(t, res, text)
	res, text = s.do(t, "PUT", "/api/v1/upload/"+name, strings.NewReader("x"), "Idempotency-Key", "k")
	if again := uploaded(t, res, text); !again.Duplicate || again.ID != first.ID || first.Filename != "über 文件 100%.txt" {
		t.Errorf("%+v after %+v", again, first)
	}
	res, text = s.do(t, "PUT", "/api/v1/upload/"+name, strings.NewReader("y"), "Idempotency-Key", "k")
	wantError(t, res, text, 409, "already_exists", "idempotency_key")
}

const missingID = "0198c0de-0000-7000-8000-000000000001"

func TestRefusedByHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{MaxSize: 1000, MaxBytes: 1500})
	open := "--" + boundary + "\r\n"
	part := open + "Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"
	end := "\r\n--" + boundary + "--\r\n"
	for name, test := range map[string]struct {
		method, path string
		body         io.Reader
		headers      []string
		status       int
		code, says   string
	}{
		"too large":          {"PUT", "/api/v1/upload/a", bytes.NewReader(random(1001)), nil, 413, "resource_exhausted", "1000 bytes"},
		"too large, unknown": {"PUT", "/api/v1/upload/a", hidden{bytes.NewReader(random(1001))}, nil, 413, "resource_exhausted", "1000 bytes"},
		"no name":            {"POST", "/api/v1/upload", strings.NewReader("x"), nil, 400, "invalid_argument", "filename: a name of 1 to 255 bytes is needed"},
		"a name":             {"PUT", "/api/v1/upload/a%00", strings.NewReader("x"), nil, 400, "invalid_argument", "filename"},
		"a digest":           {"PUT", "/api/v1/upload/a", strings.NewReader("x"), []string{"Repr-Digest", digestOf([]byte("y"))}, 400, "invalid_argument", "checksum"},
		"no digest":          {"PUT", "/api/v1/upload/a", strings.NewReader("x"), []string{"Repr-Digest", "sha-256=abc"}, 400, "invalid_argument", "Repr-Digest"},
		"another digest":     {"PUT", "/api/v1/upload/a", strings.NewReader("x"), []string{"Content-Digest", digestOf([]byte("y"))}, 400, "invalid_argument", "checksum"},
		"two digests":        {"PUT", "/api/v1/upload/a", strings.NewReader("x"), []string{"Repr-Digest", digestOf([]byte("x")), "Content-Digest", digestOf([]byte("y"))}, 400, "invalid_argument", "Content-Digest"},
		"a parameter":        {"PUT", "/api/v1/upload/a?checksum=1", strings.NewReader("x"), nil, 400, "invalid_argument", `"checksum": there is no such parameter; allowed: folder, expire_time, attributes.`},
		"another parameter":  {"POST", "/api/v1/upload?filename=a&size=1", strings.NewReader("x"), nil, 400, "invalid_argument", "size"},
		"two keys":           {"PUT", "/api/v1/upload/a", strings.NewReader("x"), []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}, 400, "invalid_argument", "Idempotency-Key"},
		"a time":             {"PUT", "/api/v1/upload/a?expire_time=soon", strings.NewReader("x"), nil, 400, "invalid_argument", "expire_time"},
		"the first time":     {"PUT", "/api/v1/upload/a?expire_time=0001-01-01T00:00:00Z", strings.NewReader("x"), nil, 400, "invalid_argument", "expire_time"},
		"another name":       {"PUT", "/api/v1/upload/a?filename=b", strings.NewReader("x"), nil, 400, "invalid_argument", "filename: the path has it"},
		"two folders":        {"PUT", "/api/v1/upload/a?folder=a&folder=b", strings.NewReader("x"), nil, 400, "invalid_argument", "folder"},
		"half a query":       {"PUT", "/api/v1/upload/a?folder=%zz", strings.NewReader("x"), nil, 400, "invalid_argument", "query"},
		"a URN":              {"GET", "/api/v1/files/urn:uuid:" + missingID + "/content", nil, nil, 404, "not_found", "id"},
		"a UUID in braces":   {"GET", "/api/v1/files/{" + missingID + "}/content", nil, nil, 404, "not_found", "id"},
		"a URN, preview":     {"GET", "/api/v1/files/urn:uuid:" + missingID + "/preview", nil, nil, 404, "not_found", "id"},
		"no file":            {"POST", "/api/v1/upload", strings.NewReader(open + "Content-Disposition: form-data; name=\"a\"\r\n\r\n1" + end), []string{"Content-Type", formType}, 400, "invalid_argument", "file"},
		"no boundary":        {"POST", "/api/v1/upload", strings.NewReader(part), []string{"Content-Type", "multipart/form-data"}, 400, "invalid_argument", "boundary"},
		"two files":          {"POST", "/api/v1/upload", strings.NewReader(part + "1\r\n" + part + "2" + end), []string{"Content-Type", formType}, 400, "invalid_argument", ""},
		"an epilogue":        {"POST", "/api/v1/upload", strings.NewReader(part + "1" + end + "more"), []string{"Content-Type", formType}, 400, "invalid_argument", "4 bytes after its last boundary"},
		"a long epilogue":    {"POST", "/api/v1/upload", strings.NewReader(part + "1" + end + strings.Repeat("x", 500)), []string{"Content-Type", formType}, 400, "invalid_argument", "500 bytes after its last boundary"},
		"a long header":      {"POST", "/api/v1/upload", strings.NewReader(open + "A: " + strings.Repeat("x", 128<<10)), []string{"Content-Type", formType}, 400, "invalid_argument", "header"},
	} {
		res, text := s.do(t, test.method, test.path, test.body, test.headers...)
		t.Run(name, func(t *testing.T) { wantError(t, res, text, test.status, test.code, test.says) })
	}
	if keys, _ := s.objects(t); len(keys) > 3 { // Those whose digest was wrong, or that came longer; a worker removes them.
		t.Errorf("%v were stored", keys)
	}
	uploaded := func() int {
		res, _ := s.do(t, "PUT", "/api/v1/upload/a", bytes.NewReader(random(800)))
		return res.StatusCode
	}
	if first, second := uploaded(), uploaded(); first != 200 || second != 413 {
		t.Errorf("within the quota %d, past it %d", first, second)
	}
	s.proxy.Set(func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 503, Body: slowDown} })
	res, text := s.do(t, "PUT", "/api/v1/upload/a", strings.NewReader("x"))
	if wantError(t, res, text, 503, "unavailable", "storage"); res.Header.Get("Retry-After") == "" {
		t.Error("nothing says when to try again")
	}
}

// A file that is too large is refused before its first byte: no 100 Continue asks for it.
func TestNoContinue(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{MaxSize: 1000})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprintf(conn, "PUT /api/v1/upload/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
	reply := make([]byte, 12)
	if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != "HTTP/1.1 413" {
		t.Errorf("%q %v", reply, err)
	}
}

// A client that goes away in the middle leaves no trace.
func TestUploadThatBreaksOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{Stall: time.Second})
	s.work(t)
	for _, headers := range []string{"Content-Length: 10000000", "Transfer-Encoding: chunked"} {
		for _, stalls := range []bool{false, true} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = fmt.Fprintf(conn, "PUT /api/v1/upload/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n%s\r\n\r\n200\r\n", headers)
			_, _ = conn.Write(random(500))
			if stalls {
				_ = conn.SetDeadline(time.Now().Add(patience))
				reply := make([]byte, 12)
				if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != "HTTP/1.1 504" {
					t.Errorf("a client that stalls gets %q, %v", reply, err)
				}
			}
			_ = conn.Close()
		}
	}
	eventually(t, "all fail", func() bool {
		files, _, err := s.ListFiles(as(t, "acme"), Filter{State: Failed}, 0, "")
		return err == nil && len(files) == 4
	})
	s.noTrace(t, "acme")
}

// Large files take little memory, whatever their way, and so do many slow uploads.
func TestMemory(t *testing.T) {
	s := newSite(t, Limits{})
	size := int64(128 << 20)
	if ci() {
		size <<= 3
	}
	body := func() io.Reader { return io.LimitReader(endless("0123456789abcdef"), size) }
	for name, most := range map[string]uint64{"known": 24 << 20, "unknown": 96 << 20} {
		peak := peakOf(func() {
			req, _ := http.NewRequest("PUT", s.url+"/api/v1/upload/"+name, body())
			req.Header.Set("Authorization", "Bearer x")
			if req.ContentLength = -1; name == "known" {
				req.ContentLength = size
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil || res.StatusCode != 200 {
				t.Fatal(res, err)
			}
			_ = res.Body.Close()
		})
		t.Logf("%s: %d MiB", name, peak>>20)
		if peak > most {
			t.Errorf("%s: the heap grows by %d MiB", name, peak>>20)
		}
	}
}

// peakOf returns by how much the heap grows while f runs.
func peakOf(f func()) (peak uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := m.HeapInuse
	ctx, stop := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse-min(before, m.HeapInuse))
			<-time.After(5 * time.Millisecond)
		}
	})
	f()
	stop()
	watch.Wait()
	return peak
}
