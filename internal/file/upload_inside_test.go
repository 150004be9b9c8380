package file

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/blob/blobtest"
	"plinth/internal/errs"
)

// hidden hides what a reader is, so that its length is not known.
type hidden struct{ io.Reader }

// Every way and size ends in the same file: ready, with the SHA-256 of its bytes, told of once, counted to the byte.
func TestUpload(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.listen(t, "acme")
	f.maxPut = partSize + 5 // so that larger ones are stored in parts
	var total int64
	sizes := []int{0, 1, 100_000, partSize, partSize + 1, 2*partSize + 5}
	for _, size := range sizes {
		for _, known := range []bool{true, false} {
			u := Upload{Filename: "a.bin", Size: unknown, Checksum: strings.ToUpper(sum(random(size)))}
			if known {
				u.Size = int64(size)
			}
			file := f.upload(t, "acme", u, random(size))
			total += int64(size)
			if file.State != Ready || file.Size != int64(size) || file.Checksum != sum(random(size)) || file.Key() != "acme/"+file.ID {
				t.Errorf("%d bytes, known %v: %+v", size, known, file)
			}
			if got := f.read(t, file); !bytes.Equal(got, random(size)) {
				t.Errorf("%d bytes, known %v: %d other bytes come back", size, known, len(got))
			}
		}
	}
	if n := f.heard(t, created); n != 2*len(sizes) {
		t.Errorf("%d files were told of", n)
	}
	if count, size := f.usage(t, "acme"); count != int64(2*len(sizes)) || size != total {
		t.Errorf("%d files of %d bytes are counted, want %d", count, size, total)
	}
	if _, begun := f.objects(t); len(begun) != 0 {
		t.Errorf("uploads in parts are left: %v", begun)
	}
	if f.pool.lent != 0 {
		t.Errorf("%d blocks are lent", f.pool.lent)
	}
}

// A form may have two bytes more than its length says.
func TestSlack(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	for _, size := range []int{2, 1000, 6 << 20} {
		content := random(size)
		file := f.upload(t, "acme", Upload{Filename: "a", Size: int64(size - 2), Slack: 2}, content)
		if file.Checksum != sum(content) || !bytes.Equal(f.read(t, file), content) {
			t.Errorf("%d bytes: %+v", size, file)
		}
	}
	_, err := f.UploadFile(as(t, "acme"), Upload{Filename: "a", Size: 7, Slack: 2}, bytes.NewReader(random(10)))
	if !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	small := newFixture(t, Limits{MaxBytes: 1000}) // The slack counts, too.
	if _, err := small.UploadFile(as(t, "acme"), Upload{Filename: "a", Size: 999, Slack: 2}, bytes.NewReader(random(1001))); !errs.Is(err, errs.ResourceExhausted) {
		t.Error(err)
	}
}

// What is wrong leaves no trace.
func TestRefusedUploads(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{MaxSize: 10 << 20, MaxBytes: 20 << 20})
	f.listen(t, "acme")
	f.work(t)
	broken := errs.New(errs.Canceled, "the upload broke off")
	large := random(11 << 20)
	for name, test := range map[string]struct {
		upload Upload
		body   io.Reader
		kind   errs.Kind
		says   string
	}{
		"wrong checksum":          {Upload{Size: 10, Checksum: sum([]byte("x"))}, bytes.NewReader(random(10)), errs.InvalidArgument, "checksum"},
		"wrong checksum, unknown": {Upload{Size: unknown, Checksum: sum([]byte("x"))}, bytes.NewReader(random(10)), errs.InvalidArgument, "checksum"},
		"shorter":                 {Upload{Size: 11}, bytes.NewReader(random(10)), errs.InvalidArgument, "size"},
		"longer":                  {Upload{Size: 9}, bytes.NewReader(random(10)), errs.InvalidArgument, "size"},
		"too large":               {Upload{Size: 11 << 20}, bytes.NewReader(large), errs.ResourceExhausted, "too large"},
		"too large, unknown":      {Upload{Size: unknown}, hidden{bytes.NewReader(large)}, errs.ResourceExhausted, "too large"},
		"broken off":              {Upload{Size: 1000}, breaking(random(500), broken), errs.Canceled, "broke off"},
		"broken off, unknown":     {Upload{Size: unknown}, breaking(random(9<<20), broken), errs.Canceled, "broke off"},
		"a name":                  {Upload{Filename: "a\x00", Size: 1}, bytes.NewReader(random(1)), errs.InvalidArgument, "filename"},
		"a type":                  {Upload{DeclaredType: "png", Size: 1}, bytes.NewReader(random(1)), errs.InvalidArgument, "content_type"},
		"a folder":                {Upload{Folder: "a//b", Size: 1}, bytes.NewReader(random(1)), errs.InvalidArgument, "folder"},
		"an attribute":            {Upload{Attributes: map[string]string{"": "x"}, Size: 1}, bytes.NewReader(random(1)), errs.InvalidArgument, "attributes"},
		"an expiry":               {Upload{ExpiresAt: time.Now().Add(-time.Second), Size: 1}, bytes.NewReader(random(1)), errs.InvalidArgument, "expire_time"},
	} {
		if test.upload.Filename == "" {
			test.upload.Filename = "a"
		}
		_, err := f.UploadFile(as(t, "acme"), test.upload, test.body)
		if !errs.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.noTrace(t, "acme")
	if n := f.heard(t, created); n != 0 {
		t.Errorf("%d files were told of", n)
	}
	if f.pool.lent != 0 {
		t.Errorf("%d blocks are lent", f.pool.lent)
	}
}

func puts(r *http.Request) bool { return r.Method == http.MethodPut }

func completes(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

const (
	slowDown = `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>secret words</Message></Error>`
	internal = `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>secret words</Message></Error>`
	denied   = `<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>secret words</Message></Error>`
)

// While the storage fails, uploads are unavailable and leave no trace; answers say nothing of it.
func TestUploadWithoutStorage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	stop := f.work(t)
	large := random(2*partSize + 5)
	for name, fault := range map[string]func(*http.Request) blobtest.Fault{
		"busy":              func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 503, Body: slowDown} },
		"denied":            func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 403, Body: denied} },
		"reset":             func(*http.Request) blobtest.Fault { return blobtest.Fault{CutUp: 1 << 20} },
		"gone at once":      func(*http.Request) blobtest.Fault { return blobtest.Fault{CutUp: -1} },
		"error in a 200":    blobtest.Times(1000, completes, blobtest.Fault{Status: 200, Body: internal}),
		"no answer to puts": blobtest.Times(1000, puts, blobtest.Fault{CutUp: 1 << 40}),
	} {
		for _, size := range []int64{int64(len(large)), unknown} {
			if size != unknown && name == "error in a 200" {
				continue
			}
			f.proxy.Set(fault)
			_, err := f.UploadFile(as(t, "acme"), Upload{Filename: "a", Size: size}, hidden{bytes.NewReader(large)})
			f.proxy.Set(nil)
			var known *errs.Error
			if !errors.As(err, &known) || known.Kind != errs.Unavailable || strings.Contains(known.Message, "secret") || strings.Contains(known.Message, "S3") {
				t.Errorf("%s, %d bytes: %v", name, size, err)
			}
		}
	}
	stop()
	f.exec(t, `UPDATE files SET due_at = now()`)
	f.work(t)
	f.noTrace(t, "acme")

	// What passes is tried again.
	f.proxy.Set(blobtest.Times(1, completes, blobtest.Fault{Status: 200, Body: internal}))
	if file := f.upload(t, "acme", Upload{Filename: "a", Size: unknown}, large); file.Checksum != sum(large) {
		t.Errorf("%+v", file)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{MaxCount: 1})
	f.listen(t, "acme")
	f.work(t)
	u := Upload{Filename: "a", Size: 1000, IdempotencyKey: "k"}
	var first, same atomic.Int64
	var ids sync.Map
	var uploads sync.WaitGroup
	for i := range 8 {
		uploads.Go(func() {
			mine := u
			if i%2 == 1 {
				mine.Size = unknown
			}
			file, err := f.UploadFile(as(t, "acme"), mine, bytes.NewReader(random(1000)))
			if err != nil {
				t.Error(err)
				return
			}
			ids.Store(file.ID, true)
			if file.Duplicate {
				same.Add(1)
			} else {
				first.Add(1)
			}
		})
	}
	uploads.Wait()
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if n != 1 || first.Load() != 1 || same.Load() != 7 || f.heard(t, created) != 1 {
		t.Errorf("%d files of %d uploads, %d told of", n, first.Load(), f.heard(t, created))
	}
	for _, other := range [][]byte{random(999), random(1001), append(random(1000), 1), {}} {
		if _, err := f.UploadFile(as(t, "acme"), Upload{Filename: "a", Size: unknown, IdempotencyKey: "k"}, bytes.NewReader(other)); !errs.Is(err, errs.AlreadyExists) {
			t.Errorf("%d other bytes: %v", len(other), err)
		}
	}
	f.upload(t, "other", Upload{Filename: "a", Size: 1000, IdempotencyKey: "k"}, random(1000)) // It is another tenant's key.
}

// An upload that failed leaves its key to the next one.
func TestIdempotencyKeyOfFailure(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	u := Upload{Filename: "a", Size: 1000, IdempotencyKey: "k"}
	if _, err := f.UploadFile(as(t, "acme"), u, breaking(random(500), errs.New(errs.Canceled, "gone"))); !errs.Is(err, errs.Canceled) {
		t.Fatal(err)
	}
	if file := f.upload(t, "acme", u, random(1000)); file.Duplicate {
		t.Error("it is taken for a duplicate")
	}
}

// Uploads of all ways at once pass a quota by not a byte, and use all of it.
func TestQuotasAreExact(t *testing.T) {
	t.Parallel()
	const each = 1 << 20
	f := newFixture(t, Limits{MaxBytes: 10 * each})
	f.work(t)
	var done, refused atomic.Int64
	var uploads sync.WaitGroup
	for i := range 20 {
		uploads.Go(func() {
			u := Upload{Filename: "a", Size: each}
			if i%2 == 1 {
				u.Size = unknown
			}
			_, err := f.UploadFile(as(t, "acme"), u, hidden{bytes.NewReader(random(each))})
			var known *errs.Error
			switch {
			case err == nil:
				done.Add(1)
			case errors.As(err, &known) && known.Reason == "QUOTA_EXCEEDED":
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	uploads.Wait()
	if done.Load() != 10 || refused.Load() != 10 {
		t.Errorf("%d were stored and %d refused", done.Load(), refused.Load())
	}
	if count, size := f.usage(t, "acme"); count != 10 || size != 10*each {
		t.Errorf("%d files of %d bytes", count, size)
	}
}

// An upload whose process is gone, or hangs, fails once its lease is over; one that comes back late changes nothing.
func TestAbandonedUpload(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.work(t)
	body, client := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		_, err := f.UploadFile(as(t, "acme"), Upload{Filename: "a", Size: unknown}, body)
		failed <- err
	}()
	if _, err := client.Write(random(partSize + 100)); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `UPDATE files SET due_at = now() - interval '1 s'`)
	f.notifier.Notify(channel, dueFiles)
	eventually(t, "it fails", func() bool {
		files, _, err := f.ListFiles(as(t, "acme"), Filter{State: Failed}, 0, "")
		return err == nil && len(files) == 1
	})
	_ = client.Close()
	if err := <-failed; !errs.Is(err, errs.Aborted) && !errs.Is(err, errs.Unavailable) {
		t.Errorf("the upload ends with %v", err)
	}
	// The second look, when nothing can arrive any more, removes the row as well.
	eventually(t, "the row is gone", func() bool {
		f.exec(t, `UPDATE files SET due_at = now(), writable_until = now()`) // Again, if the first look has just ended.
		f.notifier.Notify(channel, dueFiles)
		files, _, err := f.ListFiles(as(t, "acme"), Filter{}, 0, "")
		return err == nil && len(files) == 0
	})
	f.noTrace(t, "acme")
}

func TestNoStorage(t *testing.T) {
	t.Parallel()
	s := newFixture(t, Limits{}).Service
	s.bucket = nil
	if _, err := s.UploadFile(context.Background(), Upload{}, nil); !errs.Is(err, errs.Unimplemented) {
		t.Error(err)
	}
}
