package file

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"plinth/internal/blob"
	"plinth/internal/errs"
)

// An upload in parts is a file once all parts are there, and ready once a worker has read it.
func TestDirectParts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.listen(t, "acme")
	content := random(2*blob.MinPart + 7)
	for _, checksum := range []string{"", sum(content)} {
		d := f.offered(t, "acme", Upload{Checksum: checksum}, content, blob.MinPart)
		if d.Request.URL != "" || d.PartSize != blob.MinPart || d.PartCount() != 3 {
			t.Errorf("%+v", d)
		}
		if _, err := f.CompleteUpload(as(t, "acme"), d.ID); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("completed before it was sent: %v", err)
		}
		f.sendURLs(t, "acme", d, content, 3, 1)
		if _, err := f.CompleteUpload(as(t, "acme"), d.ID); !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "part 2") {
			t.Errorf("completed without a part: %v", err)
		}
		_, parts, err := f.CreatePartUrls(as(t, "acme"), d.ID, 2, 100)
		if err != nil || len(parts) != 2 {
			t.Fatalf("%+v %v", parts, err)
		}
		if status := send(t, parts[0].Request, content[:10]); status != 403 {
			t.Errorf("a part of another length: %d", status)
		}
		f.sendURLs(t, "acme", d, content, 2, 1)
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				if file, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil || file.State != Verifying && file.State != Ready {
					t.Errorf("%+v %v", file, err)
				}
			})
		}
		calls.Wait()
		if _, err := f.Readable(as(t, "acme"), d.ID); !errs.Is(err, errs.NotFound) {
			t.Errorf("it can be read before it was verified: %v", err)
		}
		if _, err := f.InspectFile(as(t, "acme"), d.ID, true, ""); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("it is accepted before it was verified: %v", err)
		}
		told := f.heard(t, created)
		stop := f.work(t)
		eventually(t, "it is ready", func() bool {
			file, err := f.GetFile(as(t, "acme"), d.ID)
			return err == nil && file.State == Ready
		})
		stop()
		file, err := f.CompleteUpload(as(t, "acme"), d.ID)
		if err != nil || file.Checksum != sum(content) || !bytes.Equal(f.read(t, file), content) || f.heard(t, created) != told+1 {
			t.Errorf("%+v %v, told of %d times", file, err, f.heard(t, created)-told)
		}
	}
	if count, size := f.usage(t, "acme"); count != 2 || size != int64(2*len(content)) {
		t.Errorf("%d files of %d bytes are counted", count, size)
	}
	// Other bytes than were declared.
	f.work(t)
	d := f.offered(t, "acme", Upload{Checksum: sum([]byte("x"))}, content, blob.MinPart)
	f.sendURLs(t, "acme", d, content, 1, 2, 3)
	if _, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is refused", func() bool {
		file, err := f.GetFile(as(t, "acme"), d.ID)
		return err == nil && file.State == Failed && strings.Contains(file.Failure, "checksum")
	})
	eventually(t, "its object is gone", func() bool { keys, begun := f.objects(t); return len(keys) == 2 && len(begun) == 0 })
	if count, size := f.usage(t, "acme"); count != 2 || size != int64(2*len(content)) || f.heard(t, created) != 2 {
		t.Errorf("%d files of %d bytes are counted, %d told of", count, size, f.heard(t, created))
	}
}

// Above what one PUT can have, an upload is in parts that fit.
func TestSizeOfParts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	const gib = 1 << 30
	for _, test := range []struct {
		size, asked, want int64
		kind              errs.Kind
	}{
		{size: 5 * gib, want: 0}, {size: 5*gib + 1, want: usualPart}, {size: 600 * 64 * gib / 60, want: 66 << 20}, {size: 100, asked: 5 << 20, want: 5 << 20},
		{size: 100, asked: 5<<20 - 1, kind: errs.InvalidArgument}, {size: 60_000 * (5 << 20), asked: 5 << 20, kind: errs.InvalidArgument},
		{size: 0, asked: 5 << 20, want: 0}, {size: -1, kind: errs.InvalidArgument},
	} {
		u := Upload{Filename: "a", Size: test.size, Checksum: sum(nil)}
		got, err := f.parseDirect(&u, test.asked)
		if test.kind != 0 && !errs.Is(err, test.kind) || test.kind == 0 && (err != nil || got != test.want || got > 0 && (test.size+got-1)/got > blob.MaxParts) {
			t.Errorf("%+v: %d %v", test, got, err)
		}
	}
	f.quotas = newQuotas(Limits{MaxSize: 100})
	if _, err := f.CreateUploadUrl(as(t, "acme"), Upload{Filename: "a", Size: 1 << 60}, 0, 0); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("more than is allowed, and more than parts can have: %v", err)
	}
	f.quotas = newQuotas(Limits{})
	if _, err := f.parseDirect(&Upload{Filename: "a", Size: 1}, 0); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "checksum") {
		t.Error(err)
	}
	f.maxPut = 6 << 20
	content := random(6<<20 + 1)
	d := f.offered(t, "acme", Upload{}, content, 0)
	f.sendURLs(t, "acme", d, content, 1, 2)
	if file, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil || file.Size != int64(len(content)) {
		t.Errorf("%+v %v", file, err)
	}
}
