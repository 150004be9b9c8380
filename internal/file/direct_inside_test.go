package file

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"plinth/internal/blob"
	"plinth/internal/blob/blobtest"
	"plinth/internal/errs"
)

// send sends a signed request, as a client that knows nothing else would, and returns the status of the reply. change alters it before.
func send(t *testing.T, signed blob.Signed, body []byte, change ...func(*http.Request)) int {
	t.Helper()
	status, _ := exchange(t, signed, body, change...)
	return status
}

func exchange(t *testing.T, signed blob.Signed, body []byte, change ...func(*http.Request)) (int, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), signed.Method, signed.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range signed.Headers {
		req.Header.Set(name, value)
	}
	for _, c := range change {
		c(req)
	}
	client := http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Header
}

// offered reserves an upload of content by URL.
func (f fixture) offered(t *testing.T, tenant string, u Upload, content []byte, partSize int64) Direct {
	t.Helper()
	u.Size = int64(len(content))
	if u.Filename == "" {
		u.Filename = "a.bin"
	}
	d, err := f.CreateUploadUrl(as(t, tenant), u, partSize, 0)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sendParts sends the parts of an upload with these numbers.
func (f fixture) sendURLs(t *testing.T, tenant string, d Direct, content []byte, numbers ...int) {
	t.Helper()
	for _, number := range numbers {
		_, parts, err := f.CreatePartUrls(as(t, tenant), d.ID, number, 1)
		if err != nil {
			t.Fatal(err)
		}
		p := parts[0]
		if status := send(t, p.Request, content[p.Offset:p.Offset+p.Size]); status != 200 {
			t.Fatalf("part %d: %d", number, status)
		}
	}
}

// What a client sends to the URL is a file once it is completed, told of once, counted to the byte, and nothing can replace it.
func TestDirectUpload(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.listen(t, "acme")
	var total int64
	sizes := []int{0, 1, 100_000, 6 << 20}
	for _, size := range sizes {
		content := random(size)
		d := f.offered(t, "acme", Upload{DeclaredType: "application/x-test", Checksum: sum(content), Attributes: map[string]string{"k": "v"}}, content, 0)
		total += int64(size)
		if count, bytes := f.usage(t, "acme"); bytes != total || count == 0 {
			t.Errorf("%d bytes are counted before the upload, want %d", bytes, total)
		}
		if _, err := f.CompleteUpload(as(t, "acme"), d.ID); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("completed before it was sent: %v", err)
		}
		if status := send(t, d.Request, content); status != 200 {
			t.Fatalf("%d bytes: %d", size, status)
		}
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				file, err := f.CompleteUpload(as(t, "acme"), d.ID)
				if err != nil || file.State != Ready || file.Checksum != sum(content) || file.Size != int64(size) || file.Attributes["k"] != "v" {
					t.Errorf("%d bytes: %+v %v", size, file, err)
				}
			})
		}
		calls.Wait()
		if size <= 100_000 { // The server reads no more before it resets the connection.
			if status := send(t, d.Request, content); status != http.StatusPreconditionFailed {
				t.Errorf("sent again: %d", status)
			}
		}
		file, err := f.CompleteUpload(as(t, "acme"), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.read(t, file); !bytes.Equal(got, content) {
			t.Errorf("%d bytes come back of %d", len(got), size)
		}
	}
	if n := f.heard(t, created); n != len(sizes) {
		t.Errorf("%d files were told of", n)
	}
	if count, size := f.usage(t, "acme"); count != int64(len(sizes)) || size != total {
		t.Errorf("%d files of %d bytes are counted, want %d", count, size, total)
	}
	if _, err := f.CompleteUpload(as(t, "other"), "0198c0de-0000-7000-8000-000000000001"); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	page := []byte("<!DOCTYPE html><script>1</script>")
	d := f.offered(t, "acme", Upload{Filename: "a.png", DeclaredType: "image/png", Checksum: sum(page)}, page, 0)
	send(t, d.Request, page)
	if file, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil || !strings.HasPrefix(file.ContentType, "text/html") || file.DeclaredType != "image/png" {
		t.Errorf("%+v %v", file, err)
	}
}

// Whatever else is sent is refused by the storage, and leaves no trace once it was given up.
func TestDirectUploadOfOtherThings(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.listen(t, "acme")
	f.work(t)
	content := random(1000)
	without := func(name string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(name) } }
	query := func(name, value string) func(*http.Request) {
		return func(r *http.Request) {
			q := r.URL.Query()
			q.Set(name, value)
			r.URL.RawQuery = q.Encode()
		}
	}
	other := append([]byte{1}, content[1:]...)
	for name, test := range map[string]struct {
		body   []byte
		change func(*http.Request)
	}{
		"other bytes": {other, func(*http.Request) {}},
		"other bytes, told": {other, func(r *http.Request) {
			r.Header.Set("X-Amz-Checksum-Sha256", "cQ3YtrrX8lJkVLb8LkCeEGPXTWFDr9jEIGBPmQ6KzWU=")
		}},
		"shorter":            {content[:999], func(*http.Request) {}},
		"longer":             {append(content, 1), func(*http.Request) {}},
		"another type":       {content, func(r *http.Request) { r.Header.Set("Content-Type", "text/html") }},
		"no type":            {content, without("Content-Type")},
		"no checksum":        {content, without("X-Amz-Checksum-Sha256")},
		"no condition":       {content, without("If-None-Match")},
		"another key":        {content, func(r *http.Request) { r.URL.Path = "/plinth/acme/x" }},
		"another tenant":     {content, func(r *http.Request) { r.URL.Path = strings.Replace(r.URL.Path, "/acme/", "/other/", 1) }},
		"another method":     {nil, func(r *http.Request) { r.Method = http.MethodDelete }},
		"reading":            {nil, func(r *http.Request) { r.Method = http.MethodGet }},
		"a longer time":      {content, query("X-Amz-Expires", "7200")},
		"another signature":  {content, query("X-Amz-Signature", strings.Repeat("0", 64))},
		"another host":       {content, func(r *http.Request) { r.Host = "files.example.com" }},
		"an access list":     {content, query("acl", "")},
		"a part of a number": {content, query("partNumber", "1")},
	} {
		d := f.offered(t, "acme", Upload{Checksum: sum(content)}, content, 0)
		if status := send(t, d.Request, test.body, test.change); status != 400 && status != 403 && status != 411 {
			t.Errorf("%s: %d", name, status)
		}
		if _, err := f.CompleteUpload(as(t, "acme"), d.ID); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("%s: completed: %v", name, err)
		}
		if err := f.AbortUpload(as(t, "acme"), d.ID); err != nil {
			t.Error(err)
		}
	}
	soon, err := f.CreateUploadUrl(as(t, "acme"), Upload{Filename: "a", Size: 1000, Checksum: sum(content)}, 0, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(soon.Until.Add(time.Second))) // The signature has whole seconds.
	if status := send(t, soon.Request, content); status != 403 {
		t.Errorf("expired: %d", status)
	}
	if _, err := f.CompleteUpload(as(t, "acme"), soon.ID); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("completed after its time: %v", err)
	}
	f.noTrace(t, "acme")
	if f.heard(t, created) != 0 || f.heard(t, deleted) != 0 {
		t.Error("they are told of")
	}
}

// Bytes that a client has sent with an encoding would come back as something else.
func TestDirectUploadWithEncoding(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.work(t)
	d := f.offered(t, "acme", Upload{Checksum: sum(random(10))}, random(10), 0)
	if status := send(t, d.Request, random(10), func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }); status != 200 {
		t.Fatal(status)
	}
	if _, err := f.CompleteUpload(as(t, "acme"), d.ID); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "Content-Encoding") {
		t.Error(err)
	}
	f.noTrace(t, "acme")
}

// Asking again with the same key returns the same upload, which counts once.
func TestDirectUploadAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{MaxCount: 2})
	content := random(5<<20 + 1)
	for _, partSize := range []int64{0, blob.MinPart} {
		u := Upload{Filename: "a", Checksum: sum(content), IdempotencyKey: time.Duration(partSize).String()}
		var ids sync.Map
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() { ids.Store(f.offered(t, "acme", u, content, partSize).ID, true) })
		}
		calls.Wait()
		n := 0
		ids.Range(func(any, any) bool { n++; return true })
		if n != 1 {
			t.Errorf("%d uploads", n)
		}
		again := f.offered(t, "acme", u, content, partSize)
		if partSize == 0 {
			send(t, again.Request, content)
		} else {
			f.sendURLs(t, "acme", again, content, 1, 2)
		}
		if _, err := f.CompleteUpload(as(t, "acme"), again.ID); err != nil || !again.Duplicate {
			t.Errorf("%+v %v", again, err)
		}
		if done := f.offered(t, "acme", u, content, partSize); done.ID != again.ID || !done.Duplicate || done.Request.URL != "" || done.PartSize != partSize {
			t.Errorf("%+v", done)
		}
		for _, other := range []func(*Upload){
			func(u *Upload) { u.Size = 5; u.Checksum = sum(random(5)) }, func(u *Upload) { u.Checksum = sum(nil) }, func(u *Upload) { u.DeclaredType = "text/plain" },
		} {
			another := u
			another.Size = int64(len(content))
			other(&another)
			if _, err := f.CreateUploadUrl(as(t, "acme"), another, partSize, 0); !errs.Is(err, errs.AlreadyExists) {
				t.Errorf("another upload with the key: %v", err)
			}
		}
	}
	if count, size := f.usage(t, "acme"); count != 2 || size != int64(2*len(content)) {
		t.Errorf("%d files of %d bytes are counted", count, size)
	}
	if _, begun := f.objects(t); len(begun) != 0 {
		t.Errorf("uploads in parts are left: %v", begun)
	}
	if _, err := f.CreateUploadUrl(as(t, "acme"), Upload{Filename: "a", Checksum: sum(nil)}, 0, 0); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("past the quota: %v", err)
	}
}

// Only uploads by URL can be completed and aborted, and none that another call goes on with.
func TestUploadsByAnotherWay(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	file := f.upload(t, "acme", Upload{Filename: "a", Size: 10, IdempotencyKey: "k"}, random(10))
	if _, err := f.CompleteUpload(as(t, "acme"), file.ID); !errs.Is(err, errs.FailedPrecondition) {
		t.Error(err)
	}
	if err := f.AbortUpload(as(t, "acme"), file.ID); !errs.Is(err, errs.FailedPrecondition) {
		t.Error(err)
	}
	_, err := f.CreateUploadUrl(as(t, "acme"), Upload{Filename: "a", Size: 10, Checksum: sum(random(10)), IdempotencyKey: "k"}, 0, 0)
	if !errs.Is(err, errs.AlreadyExists) {
		t.Error(err)
	}
	d := f.offered(t, "acme", Upload{Checksum: sum(random(10))}, random(10), 0)
	if _, _, err := f.CreatePartUrls(as(t, "acme"), d.ID, 1, 1); !errs.Is(err, errs.FailedPrecondition) {
		t.Error(err)
	}
	send(t, d.Request, random(10))
	if _, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil {
		t.Fatal(err)
	}
	if err := f.AbortUpload(as(t, "acme"), d.ID); !errs.Is(err, errs.FailedPrecondition) {
		t.Error(err)
	}
	f.proxy.Set(func(*http.Request) blobtest.Fault { return blobtest.Fault{CutUp: -1} })
	if _, err := f.CreateUploadUrl(as(t, "acme"), Upload{Filename: "a", Size: 10}, blob.MinPart, 0); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	if count, _ := f.usage(t, "acme"); count != 2 {
		t.Errorf("%d files are counted", count)
	}
}

// Inspectors decide once the SHA-256 is known.
func TestInspectDirectUploads(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{InspectQueue: "inspect"})
	f.listen(t, "acme")
	content := random(10)
	whole, inParts := f.offered(t, "acme", Upload{Checksum: sum(content)}, content, 0), f.offered(t, "acme", Upload{}, content, blob.MinPart)
	send(t, whole.Request, content)
	f.sendURLs(t, "acme", inParts, content, 1)
	for _, d := range []Direct{whole, inParts} {
		if file, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil || file.State != Verifying {
			t.Errorf("%+v %v", file, err)
		}
	}
	f.work(t)
	for _, d := range []Direct{whole, inParts} {
		eventually(t, "it can be inspected", func() bool {
			file, err := f.GetFile(as(t, "acme"), d.ID)
			return err == nil && file.Checksum == sum(content)
		})
		if _, err := f.InspectFile(as(t, "acme"), d.ID, true, ""); err != nil {
			t.Error(err)
		}
	}
	if n := f.heard(t, created); n != 2 {
		t.Errorf("%d files were told of", n)
	}
}
