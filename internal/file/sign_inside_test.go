package file

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"plinth/internal/blob"
	"plinth/internal/blob/blobtest"
	"plinth/internal/errs"
)

// All that is promised of the bytes is in the signature, and no checksum of anything else.
func TestSignature(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	for _, size := range []int{0, 10} {
		asked := f.proxy.Requests.Load()
		d := f.offered(t, "acme", Upload{Checksum: sum(random(size))}, random(size), 0)
		u, err := url.Parse(d.Request.URL)
		if err != nil {
			t.Fatal(err)
		}
		if f.proxy.Requests.Load() != asked {
			t.Error("the storage was asked")
		}
		signedHeaders := strings.Split(u.Query().Get("X-Amz-SignedHeaders"), ";")
		if want := []string{"content-length", "content-type", "host", "if-none-match", "x-amz-checksum-sha256"}; !slices.Equal(signedHeaders, want) {
			t.Errorf("%d bytes: %v are signed", size, signedHeaders)
		}
		for name := range u.Query() {
			if strings.Contains(strings.ToLower(name), "checksum") {
				t.Errorf("%s is in the query", name)
			}
		}
		for _, name := range []string{"Content-Type", "If-None-Match", "X-Amz-Checksum-Sha256"} {
			if d.Request.Headers[name] == "" {
				t.Errorf("%s is not among the headers %v", name, d.Request.Headers)
			}
		}
		if len(d.Request.Headers) != 3 {
			t.Errorf("%v", d.Request.Headers)
		}
		if status := send(t, d.Request, random(size+1)); status != 403 && status != 400 {
			t.Errorf("%d bytes in place of %d: %d", size+1, size, status)
		}
		if status := send(t, d.Request, random(size)); status != 200 {
			t.Errorf("%d bytes: %d", size, status)
		}
	}
	for valid, most := range map[time.Duration]int{0: 3600, time.Second: 1, blob.MaxSigned: 604_800} {
		d, err := f.CreateUploadUrl(as(t, "acme"), Upload{Filename: "a", Size: 1, Checksum: sum(random(1))}, 0, valid)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(d.Request.URL)
		if err != nil {
			t.Fatal(err)
		}
		if seconds, err := strconv.Atoi(u.Query().Get("X-Amz-Expires")); err != nil || seconds > most || seconds < max(1, most-10) {
			t.Errorf("valid for %s: %d seconds, %v", valid, seconds, err)
		}
	}
}

// URLs are for the public endpoint, and nobody is asked to sign them.
func TestPublicEndpoint(t *testing.T) {
	t.Parallel()
	server := blobtest.Share(t)
	for _, pathStyle := range []bool{true, false} {
		c := server.Config()
		c.Endpoint, c.PublicEndpoint, c.ForcePathStyle = "http://127.0.0.1:1", "https://files.example.com", pathStyle
		bucket, err := blob.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		s := blob.Sending{Size: 1, ContentType: unknownType, Checksum: make([]byte, 32)}
		put, err := bucket.SignPut(t.Context(), "acme/a", s, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		get, err := bucket.SignGet(t.Context(), blob.Ref{Key: "acme/a"}, unknownType, "attachment", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		part, err := bucket.Upload("acme/a", "u").SignPart(t.Context(), 1, 1, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		want := "https://" + c.Bucket + ".files.example.com/acme/a?"
		if pathStyle {
			want = "https://files.example.com/" + c.Bucket + "/acme/a?"
		}
		for _, signed := range []blob.Signed{put, get, part} {
			if !strings.HasPrefix(signed.URL, want) {
				t.Errorf("%s, want %s…", signed.URL, want)
			}
		}
	}
}

// A download by URL is named and shown as by this service, for as long as it is said.
func TestDownloadURL(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	svg := []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>`)
	drawing := f.upload(t, "acme", Upload{Filename: "über.svg", Size: int64(len(svg)), DeclaredType: "image/svg+xml"}, svg)
	text := f.upload(t, "acme", Upload{Filename: "a.txt", Size: 5}, []byte("hello"))
	for _, test := range []struct {
		file             File
		kind, name, want string
	}{
		{drawing, "inline", "", `attachment; filename="_ber.svg"; filename*=UTF-8''%C3%BCber.svg`}, {text, "inline", "", `inline; filename="a.txt"`},
		{text, "", "x/ä.txt", `attachment; filename="_.txt"; filename*=UTF-8''%C3%A4.txt`},
	} {
		request, until, err := f.CreateDownloadUrl(as(t, "acme"), test.file.ID, test.kind, test.name, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(until); left > time.Minute || left < 50*time.Second || len(request.Headers) != 0 {
			t.Errorf("valid for %s, with %v", left, request.Headers)
		}
		status, header := exchange(t, request, nil)
		if status != 200 || header.Get("Content-Disposition") != test.want || header.Get("Content-Type") != test.file.ContentType {
			t.Errorf("%d %v, want %s", status, header, test.want)
		}
		for name, change := range map[string]func(*http.Request){
			"another key": func(r *http.Request) { r.URL.Path = "/plinth/" + drawing.Key() + "x" },
			"shown": func(r *http.Request) {
				q := r.URL.Query()
				q.Set("response-content-type", "text/html")
				r.URL.RawQuery = q.Encode()
			},
			"removed": func(r *http.Request) { r.Method = http.MethodDelete },
		} {
			if status := send(t, request, nil, change); status != 403 {
				t.Errorf("%s: %d", name, status)
			}
		}
	}
	_, until, err := f.CreateDownloadUrl(as(t, "acme"), f.upload(t, "acme", Upload{Filename: "a", ExpiresAt: time.Now().Add(time.Minute)}, nil).ID, "", "", time.Hour)
	if err != nil || time.Until(until) > time.Minute {
		t.Errorf("%v %v", until, err)
	}
	for _, try := range []func() error{
		func() error { _, _, err := f.CreateDownloadUrl(as(t, "acme"), text.ID, "shown", "", 0); return err },
		func() error { _, _, err := f.CreateDownloadUrl(as(t, "acme"), text.ID, "", "..", 0); return err },
	} {
		if err := try(); !errs.Is(err, errs.InvalidArgument) {
			t.Error(err)
		}
	}
	if _, _, err := f.CreateDownloadUrl(as(t, "other"), text.ID, "", "", 0); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

// A server without conditional writes may store the same bytes again, and never others.
func TestWithoutConditionalWrites(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	c := f.server.Config()
	c.Conditional = false
	bucket, err := blob.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	f.Service.bucket = bucket
	content := random(1000)
	d := f.offered(t, "acme", Upload{Checksum: sum(content)}, content, 0)
	if _, there := d.Request.Headers["If-None-Match"]; there {
		t.Errorf("%v", d.Request.Headers)
	}
	send(t, d.Request, content)
	file, err := f.CompleteUpload(as(t, "acme"), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	if same, other := send(t, d.Request, content), send(t, d.Request, random(999)); same != 200 || other == 200 {
		t.Errorf("the same bytes: %d, others: %d", same, other)
	}
	if got := f.read(t, file); !bytes.Equal(got, content) {
		t.Errorf("%d other bytes", len(got))
	}
}
