package file

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

var resumable = Limits{ResumeWithin: time.Hour, Stall: patience}

// tus sends a request of the protocol.
func (s site) tus(t *testing.T, method, path string, body io.Reader, headers ...string) (*http.Response, []byte) {
	t.Helper()
	res, text := s.do(t, method, path, body, append([]string{"Tus-Resumable", tusVersion}, headers...)...)
	if res.Header.Get("Tus-Resumable") != tusVersion {
		t.Errorf("%s %s: no Tus-Resumable in the reply", method, path)
	}
	return res, text
}

func metadata(pairs ...string) string {
	var list []string
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return strings.Join(list, ",")
}

// begin creates an upload of so many bytes, and returns its path.
func (s site) begin(t *testing.T, length int, headers ...string) string {
	t.Helper()
	res, text := s.tus(t, "POST", tusPath, nil, append([]string{
		"Upload-Length", strconv.Itoa(length), "Upload-Metadata", metadata("filename", "a.bin", "author", "ada"),
	}, headers...)...)
	if res.StatusCode != 201 {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	return res.Header.Get("Location")
}

func (s site) patch(t *testing.T, path string, offset int, body io.Reader, headers ...string) (*http.Response, []byte) {
	t.Helper()
	return s.tus(t, "PATCH", path, body, append([]string{"Content-Type", tusBody, "Upload-Offset", strconv.Itoa(offset)}, headers...)...)
}

// offset is how far an upload is.
func (s site) offset(t *testing.T, path string) int {
	t.Helper()
	res, _ := s.tus(t, "HEAD", path, nil)
	n, err := strconv.Atoi(res.Header.Get("Upload-Offset"))
	if res.StatusCode != 200 || err != nil || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	return n
}

func idOf(path string) string { return strings.TrimPrefix(path, tusPath+"/") }

// wantFile wants an upload to be a file of this content, and nothing else to be left.
func (s site) wantFile(t *testing.T, path string, content []byte) File {
	t.Helper()
	f, err := s.GetFile(as(t, "acme"), idOf(path))
	if err != nil || f.State != Ready || f.Checksum != sum(content) || f.Size != int64(len(content)) {
		t.Fatalf("%+v %v", f, err)
	}
	if !bytes.Equal(s.read(t, f), content) {
		t.Error("other bytes come back")
	}
	keys, begun := s.objects(t)
	if len(keys) != 1 || len(begun) != 0 {
		t.Errorf("%v and %v are in the bucket", keys, begun)
	}
	return f
}
