package file

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"plinth/internal/blob/blobtest"
)

// Bodies of every size make the same file. Without CI=true, the long ones are left out.
func TestTusInPieces(t *testing.T) {
	t.Parallel()
	type pieces struct{ length, each int }
	tests := []pieces{{40, 1}, {20 << 20, 6 << 20}, {2 * partSize, partSize}, {9 << 20, 1 << 20}}
	if ci() {
		tests = append(tests, pieces{3 * maxTails, 1}, pieces{20 << 20, 64 << 10}, pieces{20 << 20, 1 << 20}, pieces{20 << 20, 50 << 20}, pieces{1, 1})
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%d by %d", test.length, test.each), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, resumable)
			s.listen(t, "acme")
			content := random(test.length)
			path := s.begin(t, test.length)
			for at := 0; at < test.length; {
				end := min(at+test.each, test.length)
				res, text := s.patch(t, path, at, bytes.NewReader(content[at:end]))
				if res.StatusCode != 204 || res.Header.Get("Upload-Offset") != strconv.Itoa(end) || (res.Header.Get("Upload-Expires") == "") != (end == test.length) {
					t.Fatalf("%d %v %s", res.StatusCode, res.Header, text)
				}
				at = end
			}
			if n := s.offset(t, path); n != test.length {
				t.Errorf("the upload is at %d", n)
			}
			f := s.wantFile(t, path, content)
			if f.Filename != "a.bin" || f.Attributes["author"] != "ada" || s.heard(t, created) != 1 {
				t.Errorf("%+v, %d events", f, s.heard(t, created))
			}
			if n, size := s.usage(t, "acme"); n != 1 || size != int64(test.length) {
				t.Errorf("%d files of %d bytes are counted", n, size)
			}
		})
	}
}

func TestTusCreation(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{ResumeWithin: time.Hour, Stall: patience, MaxSize: 100 << 20})
	res, _ := s.do(t, "OPTIONS", tusPath, nil)
	for name, want := range map[string]string{
		"Tus-Resumable": "1.0.0", "Tus-Version": "1.0.0", "Tus-Max-Size": "104857600", "Tus-Checksum-Algorithm": "sha1,sha256",
		"Tus-Extension": "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum",
	} {
		if res.StatusCode != 204 || res.Header.Get(name) != want {
			t.Errorf("%d %s: %s", res.StatusCode, name, res.Header.Get(name))
		}
	}
	content := random(1000)
	said := metadata("filename", "über.csv", "filetype", "text/csv", "name", "ignored", "relativePath", "null") + ",flag"
	res, text := s.tus(t, "POST", tusPath+"?folder=x", bytes.NewReader(content[:400]),
		"Upload-Length", "1000", "Content-Type", tusBody, "Upload-Metadata", said, "Repr-Digest", digestOf(content))
	if res.StatusCode != 201 || res.Header.Get("Upload-Offset") != "400" || res.Header.Get("Upload-Expires") == "" {
		t.Fatalf("%d %v %s", res.StatusCode, res.Header, text)
	}
	path := res.Header.Get("Location")
	if !strings.HasPrefix(path, "/api/v1/uploads/") {
		t.Errorf("it is at %s", path)
	}
	if res, _ := s.tus(t, "HEAD", path, nil); res.Header.Get("Upload-Metadata") != said || res.Header.Get("Upload-Length") != "1000" {
		t.Errorf("%v", res.Header)
	}
	if f, err := s.GetFile(as(t, "acme"), idOf(path)); err != nil || f.State != Pending {
		t.Errorf("%+v %v", f, err)
	}
	// Clients that cannot send PATCH send POST.
	res, text = s.tus(t, "POST", path, bytes.NewReader(content[400:]), "X-HTTP-Method-Override", "PATCH", "Content-Type", tusBody, "Upload-Offset", "400")
	if res.StatusCode != 204 {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	f, err := s.GetFile(as(t, "acme"), idOf(path))
	if err != nil || f.State != Ready || f.Checksum != sum(content) || f.Filename != "über.csv" || f.Folder != "x" || f.DeclaredType != "text/csv" ||
		f.Attributes["relativePath"] != "null" || f.Attributes["name"] != "" {
		t.Errorf("%+v %v", f, err)
	}
	if _, there := f.Attributes["flag"]; !there {
		t.Errorf("a key without a value is lost: %v", f.Attributes)
	}
	// Metadata in two headers, and none.
	res, _ = s.tus(t, "POST", tusPath, nil, "Upload-Length", "1", "Upload-Metadata", metadata("author", "ada"), "Upload-Metadata", metadata("filename", "b"))
	if f, err := s.GetFile(as(t, "acme"), idOf(res.Header.Get("Location"))); err != nil || f.Filename != "b" || f.Attributes["author"] != "ada" {
		t.Errorf("%d %+v %v", res.StatusCode, f, err)
	}
	res, _ = s.tus(t, "POST", tusPath, nil, "Upload-Length", "1")
	if f, err := s.GetFile(as(t, "acme"), idOf(res.Header.Get("Location"))); err != nil || f.Filename != "upload" {
		t.Errorf("%d %+v %v", res.StatusCode, f, err)
	}
	// All at once, and nothing at all.
	res, _ = s.tus(t, "POST", tusPath, bytes.NewReader(content), "Upload-Length", "1000", "Content-Type", tusBody, "Upload-Metadata", metadata("name", "a"))
	if f, err := s.GetFile(as(t, "acme"), idOf(res.Header.Get("Location"))); err != nil || f.State != Ready || f.Checksum != sum(content) {
		t.Errorf("%d %+v %v", res.StatusCode, f, err)
	}
	if f, err := s.GetFile(as(t, "acme"), idOf(s.begin(t, 0))); err != nil || f.State != Ready || f.Checksum != sum(nil) {
		t.Errorf("%+v %v", f, err)
	}
	// A creation whose reply was lost.
	first := s.begin(t, 10, "Idempotency-Key", "k")
	if again := s.begin(t, 10, "Idempotency-Key", "k"); again != first {
		t.Errorf("%s is at %s, too", first, again)
	}
	res, text = s.tus(t, "POST", tusPath, nil, "Upload-Length", "11", "Idempotency-Key", "k", "Upload-Metadata", metadata("name", "a"))
	wantError(t, res, text, 409, "already_exists", "idempotency_key")
}

// An upload whose length is said later takes from the quota as it grows.
func TestTusDeferredLength(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{ResumeWithin: time.Hour, Stall: patience, MaxSize: 10 << 20, MaxBytes: 20 << 20})
	begin := func() string {
		res, text := s.tus(t, "POST", tusPath, nil, "Upload-Defer-Length", "1", "Upload-Metadata", metadata("filename", "a"))
		if res.StatusCode != 201 {
			t.Fatalf("%d %s", res.StatusCode, text)
		}
		return res.Header.Get("Location")
	}
	path, content := begin(), random(9<<20)
	if res, _ := s.tus(t, "HEAD", path, nil); res.Header.Get("Upload-Defer-Length") != "1" || res.Header.Get("Upload-Length") != "" {
		t.Errorf("%v", res.Header)
	}
	if res, text := s.patch(t, path, 0, hidden{bytes.NewReader(content)}); res.StatusCode != 204 {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	if _, size := s.usage(t, "acme"); size != 9<<20 {
		t.Errorf("%d bytes are counted", size)
	}
	res, text := s.patch(t, path, 9<<20, hidden{bytes.NewReader(random(2 << 20))})
	wantError(t, res, text, 413, "resource_exhausted", "10485760")
	for length, status := range map[string]int{"1000": 400, "99999999": 413} {
		if res, text := s.patch(t, path, 9<<20, nil, "Upload-Length", length); res.StatusCode != status {
			t.Errorf("the length %s: %d %s", length, res.StatusCode, text)
		}
	}
	if res, text := s.patch(t, path, 9<<20, nil, "Upload-Length", strconv.Itoa(9<<20)); res.StatusCode != 204 {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	s.wantFile(t, path, content)
	// The length with the first bytes; past the quota.
	second := begin()
	if res, text := s.patch(t, second, 0, bytes.NewReader(content[:500]), "Upload-Length", "1000"); res.StatusCode != 204 {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	res, text = s.patch(t, second, 500, bytes.NewReader(content[:500]), "Upload-Length", "1001")
	wantError(t, res, text, 400, "invalid_argument", "Upload-Length")
	if _, size := s.usage(t, "acme"); size != 9<<20+1000 {
		t.Errorf("%d bytes are counted", size)
	}
	third, fourth := begin(), begin()
	if res, _ := s.patch(t, third, 0, hidden{bytes.NewReader(content)}); res.StatusCode != 204 {
		t.Error(res.StatusCode)
	}
	res, text = s.patch(t, fourth, 0, hidden{bytes.NewReader(content)})
	wantError(t, res, text, 413, "resource_exhausted", "quota")
}

func TestTusRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{ResumeWithin: time.Hour, Stall: patience, MaxSize: 1000, MaxBytes: 1500})
	path := s.begin(t, 100)
	if res, _ := s.patch(t, path, 0, bytes.NewReader(random(50))); res.StatusCode != 204 {
		t.Fatal(res.StatusCode)
	}
	name := metadata("filename", "a")
	for what, test := range map[string]struct {
		method, path string
		body         io.Reader
		headers      []string
		status       int
		code, says   string
	}{
		"an offset":          {"PATCH", path, bytes.NewReader(random(50)), []string{"Content-Type", tusBody, "Upload-Offset", "40"}, 409, "aborted", "50 bytes"},
		"an offset too far":  {"PATCH", path, bytes.NewReader(random(50)), []string{"Content-Type", tusBody, "Upload-Offset", "60"}, 409, "aborted", "50 bytes"},
		"no offset":          {"PATCH", path, bytes.NewReader(random(50)), []string{"Content-Type", tusBody}, 400, "invalid_argument", "Upload-Offset"},
		"a negative offset":  {"PATCH", path, bytes.NewReader(random(50)), []string{"Content-Type", tusBody, "Upload-Offset", "-1"}, 400, "invalid_argument", "Upload-Offset"},
		"a type":             {"PATCH", path, bytes.NewReader(random(50)), []string{"Content-Type", "application/octet-stream", "Upload-Offset", "50"}, 415, "invalid_argument", "Content-Type"},
		"past the end":       {"PATCH", path, bytes.NewReader(random(51)), []string{"Content-Type", tusBody, "Upload-Offset", "50"}, 413, "invalid_argument", "end"},
		"past, unknown":      {"PATCH", path, hidden{bytes.NewReader(random(51))}, []string{"Content-Type", tusBody, "Upload-Offset", "50"}, 413, "invalid_argument", "end"},
		"an algorithm":       {"PATCH", path, bytes.NewReader(random(50)), []string{"Content-Type", tusBody, "Upload-Offset", "50", "Upload-Checksum", "md5 AAAA"}, 400, "invalid_argument", "Upload-Checksum"},
		"no checksum":        {"PATCH", path, bytes.NewReader(random(50)), []string{"Content-Type", tusBody, "Upload-Offset", "50", "Upload-Checksum", "sha1 AAAA"}, 400, "invalid_argument", "Upload-Checksum"},
		"an unknown upload":  {"PATCH", tusPath + "/0198c0de-0000-7000-8000-000000000001", bytes.NewReader(random(50)), []string{"Content-Type", tusBody, "Upload-Offset", "50"}, 404, "not_found", "id"},
		"no id":              {"DELETE", tusPath + "/x", nil, nil, 404, "not_found", "id"},
		"an override":        {"POST", path, nil, []string{"X-HTTP-Method-Override", "GET"}, 400, "invalid_argument", "X-HTTP-Method-Override"},
		"too large":          {"POST", tusPath, nil, []string{"Upload-Length", "1001", "Upload-Metadata", name}, 413, "resource_exhausted", "1000 bytes"},
		"past the quota":     {"POST", tusPath, nil, []string{"Upload-Length", "1000", "Idempotency-Key", "first", "Upload-Metadata", name}, 201, "", ""},
		"no length":          {"POST", tusPath, nil, []string{"Upload-Metadata", name}, 400, "invalid_argument", "Upload-Length"},
		"two lengths":        {"POST", tusPath, nil, []string{"Upload-Length", "1", "Upload-Defer-Length", "1", "Upload-Metadata", name}, 400, "invalid_argument", "Upload-Defer-Length"},
		"a length":           {"POST", tusPath, nil, []string{"Upload-Length", "1e3", "Upload-Metadata", name}, 400, "invalid_argument", "Upload-Length"},
		"no type":            {"POST", tusPath, nil, []string{"Upload-Length", "1", "Upload-Metadata", metadata("filetype", "x")}, 400, "invalid_argument", "content_type"},
		"a coding":           {"PATCH", path, bytes.NewReader(random(50)), []string{"Content-Type", tusBody, "Upload-Offset", "50", "Content-Encoding", "gzip"}, 400, "invalid_argument", "Content-Encoding"},
		"a URN":              {"DELETE", tusPath + "/urn:uuid:" + idOf(path), nil, nil, 404, "not_found", "id"},
		"metadata":           {"POST", tusPath, nil, []string{"Upload-Length", "1", "Upload-Metadata", "filename %"}, 400, "invalid_argument", "Upload-Metadata"},
		"metadata twice":     {"POST", tusPath, nil, []string{"Upload-Length", "1", "Upload-Metadata", name + "," + name}, 400, "invalid_argument", "Upload-Metadata"},
		"large metadata":     {"POST", tusPath, nil, []string{"Upload-Length", "1", "Upload-Metadata", name + "," + metadata("a", strings.Repeat("x", 5000))}, 400, "invalid_argument", "attributes"},
		"parts":              {"POST", tusPath, nil, []string{"Upload-Length", "1", "Upload-Concat", "partial", "Upload-Metadata", name}, 400, "invalid_argument", "Upload-Concat"},
		"a body of a type":   {"POST", tusPath, strings.NewReader("x"), []string{"Upload-Length", "1", "Upload-Metadata", name, "Content-Type", "text/plain"}, 415, "invalid_argument", "Content-Type"},
		"a body that is too": {"POST", tusPath, strings.NewReader("xy"), []string{"Upload-Length", "1", "Upload-Metadata", name, "Content-Type", tusBody}, 413, "invalid_argument", "end"},
	} {
		res, text := s.tus(t, test.method, test.path, test.body, test.headers...)
		if test.status < 300 {
			if res.StatusCode != test.status {
				t.Errorf("%s: %d %s", what, res.StatusCode, text)
			}
			continue
		}
		t.Run(what, func(t *testing.T) { wantError(t, res, text, test.status, test.code, test.says) })
	}
	for _, version := range []string{"", "2.0.0"} {
		res, text := s.do(t, "PATCH", path, bytes.NewReader(random(50)), "Tus-Resumable", version, "Content-Type", tusBody, "Upload-Offset", "50")
		wantError(t, res, text, 412, "failed_precondition", "1.0.0")
		if res.Header.Get("Tus-Version") != "1.0.0" || res.Header.Get("Tus-Resumable") != "1.0.0" {
			t.Errorf("%v", res.Header)
		}
	}
	for _, of := range []string{tusPath, path} { // A client takes a reply without the version for one of something else.
		res, text := s.tus(t, "PUT", of, nil)
		wantError(t, res, text, 405, "unimplemented", "PUT")
	}
	res, text := s.tus(t, "POST", tusPath, nil, "Upload-Length", "800", "Upload-Metadata", name)
	wantError(t, res, text, 413, "resource_exhausted", "quota")
	if n := s.offset(t, path); n != 50 {
		t.Errorf("the upload is at %d", n)
	}
	if res, text := s.patch(t, path, 50, bytes.NewReader(random(50))); res.StatusCode != 204 {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	if res, _ := s.patch(t, path, 100, nil); res.StatusCode != 204 {
		t.Errorf("nothing after the end: %d", res.StatusCode)
	}
	if res, _ := s.patch(t, path, 100, strings.NewReader("x")); res.StatusCode != 413 {
		t.Errorf("a byte after the end: %d", res.StatusCode)
	}
}

// A body with a checksum counts as a whole, or not at all.
func TestTusChecksum(t *testing.T) {
	t.Parallel()
	s := newSite(t, resumable)
	content := random(2*partSize + 100)
	path := s.begin(t, len(content))
	check := func(b []byte) string {
		h := sha1.Sum(b)
		return "sha1 " + base64.StdEncoding.EncodeToString(h[:])
	}
	for _, part := range [][]byte{content[:100], content[:partSize+10]} {
		res, text := s.patch(t, path, 0, bytes.NewReader(part), "Upload-Checksum", check([]byte("x")))
		wantError(t, res, text, 460, "invalid_argument", "Upload-Checksum")
		if n := s.offset(t, path); n != 0 {
			t.Errorf("%d bytes of it are kept", n)
		}
	}
	if keys, _ := s.objects(t); len(keys) > 0 {
		t.Errorf("%v are kept", keys)
	}
	for at, end := range map[int]int{0: partSize + 10} {
		if res, text := s.patch(t, path, at, bytes.NewReader(content[at:end]), "Upload-Checksum", check(content[at:end])); res.StatusCode != 204 {
			t.Fatalf("%d %s", res.StatusCode, text)
		}
	}
	rest := content[partSize+10:]
	if res, text := s.patch(t, path, partSize+10, bytes.NewReader(rest), "Upload-Checksum", "sha256 "+strings.Trim(strings.TrimPrefix(digestOf(rest), "sha-256="), ":")); res.StatusCode != 204 {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	s.wantFile(t, path, content)
	// That of the whole.
	other := s.begin(t, 100, "Repr-Digest", digestOf([]byte("x")))
	res, text := s.patch(t, other, 0, bytes.NewReader(random(100)))
	wantError(t, res, text, 400, "invalid_argument", "checksum")
	if res, _ := s.tus(t, "HEAD", other, nil); res.StatusCode != 410 {
		t.Errorf("it is still there: %d", res.StatusCode)
	}
}

// What the bucket refuses is sent again, from where the upload was.
func TestTusWithoutBucket(t *testing.T) {
	t.Parallel()
	s := newSite(t, resumable)
	content := random(partSize + 500)
	path := s.begin(t, len(content))
	busy := blobtest.Fault{Status: 503, Body: slowDown}
	s.proxy.Set(func(r *http.Request) blobtest.Fault {
		if r.Method == http.MethodPut {
			return busy
		}
		return blobtest.Fault{}
	})
	res, text := s.patch(t, path, 0, bytes.NewReader(content[:100]))
	wantError(t, res, text, 503, "unavailable", "storage")
	res, text = s.patch(t, path, 0, bytes.NewReader(content))
	wantError(t, res, text, 503, "unavailable", "storage")
	if n := s.offset(t, path); n != 0 {
		t.Errorf("the upload is at %d", n)
	}
	// The last step fails: the upload is complete only once it is done.
	s.proxy.Set(func(r *http.Request) blobtest.Fault {
		if r.Method == http.MethodPost && r.URL.Query().Get("uploadId") != "" {
			return busy
		}
		return blobtest.Fault{}
	})
	res, text = s.patch(t, path, 0, bytes.NewReader(content))
	wantError(t, res, text, 503, "unavailable", "storage")
	if res, _ := s.tus(t, "HEAD", path, nil); res.StatusCode != 503 {
		t.Errorf("HEAD: %d %v", res.StatusCode, res.Header)
	}
	s.proxy.Set(nil)
	if n := s.offset(t, path); n != len(content) {
		t.Errorf("the upload is at %d", n)
	}
	f := s.wantFile(t, path, content)
	if err := s.DeleteFile(as(t, "acme"), f.ID); err != nil {
		t.Fatal(err)
	}
	s.work(t)
	s.noTrace(t, "acme")
	// The reply to the last step is lost, once it is done.
	path = s.begin(t, len(content))
	s.proxy.Set(blobtest.Times(1, func(r *http.Request) bool {
		return r.Method == http.MethodPost && r.URL.Query().Get("uploadId") != ""
	}, blobtest.Fault{CutDown: -1}))
	if res, text := s.patch(t, path, 0, bytes.NewReader(content)); res.StatusCode != 204 {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	s.wantFile(t, path, content)
}

// Uploads of all ways together pass no quota.
func TestTusQuota(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{ResumeWithin: time.Hour, Stall: patience, MaxBytes: 10_000})
	var all sync.WaitGroup
	var mu sync.Mutex
	var accepted []string
	for range 20 {
		all.Go(func() {
			res, _ := s.tus(t, "POST", tusPath, nil, "Upload-Length", "1000", "Upload-Metadata", metadata("filename", "a"))
			if res.StatusCode == 201 {
				mu.Lock()
				defer mu.Unlock()
				accepted = append(accepted, res.Header.Get("Location"))
			}
		})
	}
	all.Wait()
	if len(accepted) != 10 {
		t.Errorf("%d uploads are accepted", len(accepted))
	}
	if res, _ := s.tus(t, "DELETE", accepted[0], nil); res.StatusCode != 204 {
		t.Error(res.StatusCode)
	}
	s.begin(t, 1000)
}
