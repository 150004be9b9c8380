package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"plinth/internal/blob/blobtest"
	"plinth/internal/pg/pgtest"
)

// tusReplicas are two servers on one database and one bucket.
type tusReplicas struct {
	servers [2]*process
	urls    [2]string
	bucket  *blobtest.Server
	db      string
}

func startReplicas(t *testing.T) (r tusReplicas) {
	t.Helper()
	r.bucket = blobtest.New(t)
	env := with(backends(t, "postgres"), r.bucket.Env())
	r.db = env["DATABASE_URL"]
	for i := range r.servers {
		r.servers[i] = start(t, "server", env)
		r.urls[i] = "http://" + r.servers[i].address(t)
		ready(t, r.urls[i])
	}
	return r
}

// tus sends a request of the protocol with the administrator's key.
func tus(t *testing.T, method, url string, body io.Reader, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	headers = append(headers, "Authorization", "Bearer "+adminKey, "Tus-Resumable", "1.0.0", "Content-Type", "application/offset+octet-stream")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// wantUploaded wants an upload to be a file of a content, and the bucket to have nothing else.
func (r tusReplicas) wantUploaded(t *testing.T, url, location string, content []byte) {
	t.Helper()
	id := location[strings.LastIndexByte(location, '/')+1:]
	res := tus(t, "GET", url+"/api/v1/files/"+id+"/content", nil)
	got, err := io.ReadAll(res.Body)
	want := sha256.Sum256(content)
	if err != nil || res.StatusCode != 200 || !bytes.Equal(got, content) || res.Header.Get("ETag") != `"`+hex.EncodeToString(want[:])+`"` {
		t.Errorf("%d, %d bytes, %v, %v", res.StatusCode, len(got), res.Header, err)
	}
	bucket := r.bucket.Open(t, r.bucket.Endpoint)
	eventually(t, "nothing but the object is in the bucket", func() bool {
		objects, _, err := bucket.List(t.Context(), "", "")
		return err == nil && len(objects) == 1
	})
}

// weather is a network between a client and the replicas: each connection goes to the next one, and many are interrupted.
type weather struct {
	t        *testing.T
	replicas *tusReplicas

	mu            sync.Mutex
	connections   int
	interruptions int
	left          int   // interruptions that are still to come
	after         int64 // bytes, upwards
	down          [2]bool
}

// serve passes connections on until the test ends, and returns the URL for them.
func (w *weather) serve() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go w.pass(client.(*net.TCPConn))
		}
	}()
	return "http://" + l.Addr().String()
}

func (w *weather) pass(client *net.TCPConn) {
	w.mu.Lock()
	w.connections++
	at := w.connections % 2
	if w.down[at] {
		at = 1 - at
	}
	w.mu.Unlock()
	server, err := net.Dial("tcp", strings.TrimPrefix(w.replicas.urls[at], "http://"))
	if err != nil {
		_ = client.Close()
		return
	}
	go func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
	n, _ := io.CopyN(server, client, w.after)
	w.mu.Lock()
	if n < w.after || w.left == 0 {
		w.mu.Unlock()
		_, _ = io.Copy(server, client)
		_ = server.Close()
		return
	}
	w.left--
	w.interruptions++
	kind := w.interruptions
	w.mu.Unlock()
	_ = client.SetLinger(0)
	_ = client.Close()
	switch {
	case kind == 10: // The process that receives it dies.
		w.mu.Lock()
		w.down[at] = true
		w.mu.Unlock()
		w.replicas.servers[at].kill()
	case kind%2 == 0: // The server hears of it.
		_ = server.Close()
	default: // It does not.
		w.t.Cleanup(func() { _ = server.Close() })
	}
}

// tus-js-client is interrupted 20 times over two servers, one of which is killed, and ends with the file.
func TestTusClientIsInterrupted(t *testing.T) {
	t.Parallel()
	r := startReplicas(t)
	content := make([]byte, 40<<20+123)
	_, _ = rand.New(rand.NewSource(1)).Read(content)
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	w := &weather{t: t, replicas: &r, left: 20, after: 1<<20 + 4321}
	var got struct {
		Location string
		Requests int
	}
	output(t, node(t, "tus.mjs", "tus-js-client", w.serve(), path), &got)
	w.mu.Lock()
	interruptions, alive := w.interruptions, 0
	if w.down[0] {
		alive = 1
	}
	w.mu.Unlock()
	if t.Logf("%d requests", got.Requests); interruptions != 20 {
		t.Errorf("it was interrupted %d times", interruptions)
	}
	r.wantUploaded(t, r.urls[alive], got.Location, content)
	res := tus(t, "GET", r.urls[alive]+"/api/v1/files?folder=tus", nil)
	var list struct {
		Files []struct {
			Filename, State, DeclaredContentType string
			Attributes                           map[string]string
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil || len(list.Files) != 1 || list.Files[0].Filename != "über.bin" ||
		list.Files[0].DeclaredContentType != "application/x-thing" || list.Files[0].Attributes["author"] != "ada" || list.Files[0].State != "FILE_STATE_READY" {
		t.Errorf("%+v %v", list, err)
	}
}

// A server that is stopped in the middle of an upload loses it to another one. When it comes back, what it stores is refused.
func TestTusServerIsStopped(t *testing.T) {
	t.Parallel()
	r := startReplicas(t)
	content := make([]byte, 9<<20)
	_, _ = rand.New(rand.NewSource(2)).Read(content)
	created := tus(t, "POST", r.urls[0]+"/api/v1/uploads", nil, "Upload-Length", strconv.Itoa(len(content)), "Upload-Metadata", "filename YQ==")
	location := created.Header.Get("Location")
	if created.StatusCode != 201 || !strings.HasPrefix(location, "/api/v1/uploads/") {
		t.Fatal(created.StatusCode, created.Header)
	}
	// The first server gets all but the last bytes, and then the signal.
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.urls[0], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	other := bytes.Repeat([]byte("x"), len(content))
	_, _ = fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"+
		"Content-Type: application/offset+octet-stream\r\nContent-Length: %d\r\n\r\n", location, adminKey, len(content))
	if _, err := conn.Write(other[:8<<20+1000]); err != nil {
		t.Fatal(err)
	}
	db := pgtest.Owner(t, r.db)
	eventually(t, "a part of it is stored", func() bool {
		var received int
		err := db.QueryRow(t.Context(), `SELECT received FROM file_uploads`).Scan(&received)
		return err == nil && received == 8<<20
	})
	r.servers[0].signal(t, syscall.SIGSTOP)
	head := tus(t, "HEAD", r.urls[1]+location, nil)
	offset, err := strconv.Atoi(head.Header.Get("Upload-Offset"))
	if head.StatusCode != 200 || err != nil || offset != 8<<20 {
		t.Fatal(head.StatusCode, head.Header)
	}
	whole := append(bytes.Clone(other[:offset]), content[offset:]...)
	if res := tus(t, "PATCH", r.urls[1]+location, bytes.NewReader(whole[offset:]), "Upload-Offset", strconv.Itoa(offset)); res.StatusCode != 204 {
		t.Fatal(res.StatusCode)
	}
	r.servers[0].signal(t, syscall.SIGCONT)
	_, _ = conn.Write(other[8<<20+1000:])
	reply := make([]byte, 12)
	if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != "HTTP/1.1 409" {
		t.Errorf("the late server says %q, %v", reply, err)
	}
	r.wantUploaded(t, r.urls[0], location, whole)
	if res := tus(t, "HEAD", r.urls[0]+location, nil); res.Header.Get("Upload-Offset") != strconv.Itoa(len(content)) {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

// A server that is told to end hands its uploads over, with all that it has received.
func TestTusServerEnds(t *testing.T) {
	t.Parallel()
	r := startReplicas(t)
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	created := tus(t, "POST", r.urls[0]+"/api/v1/uploads", nil, "Upload-Length", strconv.Itoa(len(content)), "Upload-Metadata", "filename YQ==")
	location := created.Header.Get("Location")
	body, rest := io.Pipe()
	defer func() { _ = rest.Close() }()
	ended := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		req, _ := http.NewRequestWithContext(ctx, "PATCH", r.urls[0]+location, body)
		for name, value := range map[string]string{
			"Authorization": "Bearer " + adminKey, "Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0",
		} {
			req.Header.Set(name, value)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			ended <- 0
			return
		}
		_ = res.Body.Close()
		ended <- res.StatusCode
	}()
	if _, err := rest.Write(content[:60_000]); err != nil {
		t.Fatal(err)
	}
	db := pgtest.Owner(t, r.db)
	eventually(t, "the server works on it", func() bool {
		var leased bool
		err := db.QueryRow(t.Context(), `SELECT lease_until > now() + interval '5 seconds' FROM file_uploads`).Scan(&leased)
		return err == nil && leased
	})
	r.servers[0].signal(t, syscall.SIGTERM)
	if status := <-ended; status != 503 {
		t.Errorf("the client is told %d", status)
	}
	if res := tus(t, "HEAD", r.urls[1]+location, nil); res.Header.Get("Upload-Offset") != "60000" {
		t.Fatal(res.StatusCode, res.Header)
	}
	if res := tus(t, "PATCH", r.urls[1]+location, bytes.NewReader(content[60_000:]), "Upload-Offset", "60000"); res.StatusCode != 204 {
		t.Fatal(res.StatusCode)
	}
	r.wantUploaded(t, r.urls[1], location, content)
}
