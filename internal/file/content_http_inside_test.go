package file

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"plinth/internal/blob/blobtest"
)

func TestContentByHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{})
	f := s.upload(t, "acme", Upload{Filename: "über.txt", Size: 10, DeclaredType: "text/plain"}, []byte("0123456789"))
	path, etag, at := "/api/v1/files/"+f.ID+"/content", `"`+f.Checksum+`"`, f.CreatedAt.UTC().Format(http.TimeFormat)
	for _, test := range []struct {
		headers []string
		status  int
		body    string
		span    string
	}{
		{nil, 200, "0123456789", ""},
		{[]string{"Range", "bytes=0-0"}, 206, "0", "bytes 0-0/10"}, {[]string{"Range", "bytes=-5"}, 206, "56789", "bytes 5-9/10"},
		{[]string{"Range", "bytes=0-99999"}, 206, "0123456789", "bytes 0-9/10"}, {[]string{"Range", "bytes=0-1,3-4"}, 200, "0123456789", ""},
		{[]string{"Range", "bytes=" + strings.Repeat("0-1,", 2000) + "3-4"}, 200, "0123456789", ""},
		{[]string{"Range", "bytes=5-", "If-Range", etag}, 206, "56789", "bytes 5-9/10"}, {[]string{"Range", "bytes=5-", "If-Range", "W/" + etag}, 200, "0123456789", ""},
		{[]string{"Range", "bytes=5-", "If-Range", `"x"`}, 200, "0123456789", ""}, {[]string{"Range", "bytes=5-", "If-Range", at}, 206, "56789", "bytes 5-9/10"},
		{[]string{"Accept-Encoding", "gzip, br"}, 200, "0123456789", ""}, {[]string{"If-None-Match", `"x"`}, 200, "0123456789", ""},
		{[]string{"If-None-Match", `"x", W/` + etag}, 304, "", ""}, {[]string{"If-None-Match", "*"}, 304, "", ""}, {[]string{"If-Modified-Since", at}, 304, "", ""},
		{[]string{"Range", "bytes=10-"}, 416, "", "bytes */10"}, {[]string{"Range", "bytes=-0"}, 416, "", "bytes */10"}, {[]string{"If-Match", `"x"`}, 412, "", ""},
	} {
		asked := s.proxy.Requests.Load()
		res, text := s.do(t, "GET", path, nil, test.headers...)
		h := res.Header
		if res.StatusCode != test.status || test.status < 300 && string(text) != test.body || h.Get("Content-Range") != test.span {
			t.Errorf("%.60q: %d %s %q", test.headers, res.StatusCode, h.Get("Content-Range"), text)
		}
		if (test.status >= 300) != (s.proxy.Requests.Load() == asked) {
			t.Errorf("%.60q: the storage was asked %d times", test.headers, s.proxy.Requests.Load()-asked)
		}
		switch {
		case test.status < 400 && (h.Get("ETag") != etag || !strings.Contains(h.Get("Cache-Control"), "no-transform") || h.Get("Content-Encoding") != ""):
			t.Errorf("%.60q: %v", test.headers, h)
		case test.status < 300 && (h.Get("Accept-Ranges") != "bytes" || h.Get("Last-Modified") != at || h.Get("Repr-Digest") != digestOf([]byte("0123456789")) ||
			h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Content-Security-Policy"), "sandbox") ||
			h.Get("Content-Disposition") != `attachment; filename="_ber.txt"; filename*=UTF-8''%C3%BCber.txt`):
			t.Errorf("%.60q: %v", test.headers, h)
		case test.status >= 400:
			wantError(t, res, text, test.status, map[int]string{416: "invalid_argument", 412: "failed_precondition"}[test.status], "")
		}
	}
	whole, _ := s.do(t, "GET", path, nil)
	head, text := s.do(t, "HEAD", path, nil)
	for _, name := range []string{"ETag", "Content-Length", "Content-Type", "Content-Disposition", "Last-Modified", "Accept-Ranges", "Repr-Digest", "Cache-Control"} {
		if head.Header.Get(name) != whole.Header.Get(name) || head.Header.Get(name) == "" {
			t.Errorf("%s is %q for HEAD and %q for GET", name, head.Header.Get(name), whole.Header.Get(name))
		}
	}
	if head.StatusCode != 200 || len(text) > 0 {
		t.Errorf("HEAD: %d %q", head.StatusCode, text)
	}
	shown, _ := s.do(t, "GET", path+"?disposition=inline&filename=x.txt", nil)
	if got := shown.Header.Get("Content-Disposition"); got != `inline; filename="x.txt"` {
		t.Error(got)
	}
	svg := s.upload(t, "acme", Upload{Filename: "a.png", Size: unknown, DeclaredType: "image/png"}, []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>`))
	if shown, _ = s.do(t, "GET", "/api/v1/files/"+svg.ID+"/content?disposition=inline", nil); !strings.HasPrefix(shown.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("SVG is shown: %v", shown.Header)
	}
	for _, bad := range []string{path + "?disposition=x", path + "?filename=.."} {
		res, text := s.do(t, "GET", bad, nil)
		wantError(t, res, text, 400, "invalid_argument", "")
	}
	for _, id := range []string{"x", "0198c0de-0000-7000-8000-000000000001"} {
		res, text := s.do(t, "GET", "/api/v1/files/"+id+"/content", nil)
		wantError(t, res, text, 404, "not_found", "")
	}
}

// What the storage does not give whole is cut, never ended well.
func TestContentThatBreaksOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{})
	f := s.upload(t, "acme", Upload{Filename: "a", Size: 1 << 20}, random(1<<20))
	s.proxy.Set(blobtest.Times(2, gets, blobtest.Fault{CutDown: 400_000}))
	if res, got := s.do(t, "GET", "/api/v1/files/"+f.ID+"/content", nil); res.StatusCode != 200 || !bytes.Equal(got, random(1<<20)) {
		t.Errorf("%d, %d bytes", res.StatusCode, len(got))
	}
	s.proxy.Set(blobtest.Times(100, gets, blobtest.Fault{CutDown: 300_000}))
	req, _ := http.NewRequest("GET", s.url+"/api/v1/files/"+f.ID+"/content", nil)
	req.Header.Set("Authorization", "Bearer x")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if got, err := io.ReadAll(res.Body); err == nil || !bytes.HasPrefix(random(1<<20), got) {
		t.Errorf("it ends well after %d bytes", len(got))
	}
	s.proxy.Set(func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 503, Body: slowDown} })
	broken, text := s.do(t, "GET", "/api/v1/files/"+f.ID+"/content", nil)
	wantError(t, broken, text, 503, "unavailable", "storage")
	if broken.Header.Get("ETag") != "" {
		t.Errorf("an error is cached: %v", broken.Header)
	}
}
