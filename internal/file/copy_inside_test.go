package file

import (
	"bytes"
	"net/http"
	"sync/atomic"
	"testing"

	"plinth/internal/blob/blobtest"
	"plinth/internal/errs"
)

func TestCopyFile(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{MaxCount: 2})
	f.listen(t, "acme")
	source := f.upload(t, "acme", Upload{Filename: "a", Folder: "x", Size: 1000, Attributes: map[string]string{"k": "v"}}, random(1000))
	folder := ""
	made, err := f.CopyFile(as(t, "acme"), source.ID, Copy{Folder: &folder, IdempotencyKey: "k"})
	if err != nil || made.ID == source.ID || made.Checksum != source.Checksum || made.Folder != "" || made.Filename != "a" || made.Attributes["k"] != "v" {
		t.Fatalf("%+v %v", made, err)
	}
	if again, err := f.CopyFile(as(t, "acme"), source.ID, Copy{IdempotencyKey: "k"}); err != nil || !again.Duplicate || again.ID != made.ID {
		t.Errorf("%+v %v", again, err)
	}
	if _, err := f.CopyFile(as(t, "acme"), source.ID, Copy{}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("past the quota: %v", err)
	}
	if _, err := f.CopyFile(as(t, "other"), source.ID, Copy{}); !errs.Is(err, errs.NotFound) {
		t.Errorf("of another tenant: %v", err)
	}
	if err := f.DeleteFile(as(t, "acme"), source.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CopyFile(as(t, "acme"), source.ID, Copy{}); !errs.Is(err, errs.NotFound) {
		t.Errorf("of a deleted file: %v", err)
	}
	f.work(t)
	eventually(t, "the source is gone", func() bool { keys, _ := f.objects(t); return len(keys) == 1 })
	if got := f.read(t, made); !bytes.Equal(got, random(1000)) || f.heard(t, created) != 2 {
		t.Errorf("%d bytes, %d told of", len(got), f.heard(t, created))
	}
}

// What one request cannot copy is copied in parts, and nothing is left of a copy that fails.
func TestCopyInParts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.maxPut = 6 << 20
	content := random(11<<20 + 1)
	source := f.upload(t, "acme", Upload{Filename: "a", Size: int64(len(content))}, content)
	parts := func(r *http.Request) bool { return r.Method == http.MethodPut && r.URL.Query().Has("uploadId") }
	var copied atomic.Int64
	f.proxy.Set(func(r *http.Request) blobtest.Fault {
		if parts(r) {
			copied.Add(1)
		}
		return blobtest.Fault{}
	})
	made, err := f.CopyFile(as(t, "acme"), source.ID, Copy{})
	if err != nil || made.State != Ready || made.Checksum != sum(content) || !bytes.Equal(f.read(t, made), content) || copied.Load() != 2 {
		t.Errorf("%+v %v, %d parts", made, err, copied.Load())
	}
	f.proxy.Set(func(r *http.Request) blobtest.Fault {
		if parts(r) && r.URL.Query().Get("partNumber") == "2" {
			return blobtest.Fault{Status: 403, Body: denied}
		}
		return blobtest.Fault{}
	})
	if _, err := f.CopyFile(as(t, "acme"), source.ID, Copy{}); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	f.proxy.Set(nil)
	f.work(t)
	eventually(t, "no parts are left", func() bool { keys, begun := f.objects(t); return len(keys) == 2 && len(begun) == 0 })
	if _, size := f.usage(t, "acme"); size != int64(2*len(content)) {
		t.Errorf("%d bytes are counted", size)
	}
}
