package file

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"

	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

// However files come, and however many at once, there are never more than the quota allows, and never fewer.
func TestQuotasByEveryWay(t *testing.T) {
	t.Parallel()
	const size, fit = 1 << 20, 10
	f := newFixture(t, Limits{MaxBytes: (fit + 1) * size})
	f.work(t)
	content := random(size)
	source := f.upload(t, "acme", Upload{Filename: "source", Size: size}, content)
	complete := func(d Direct, err error) error {
		if err != nil {
			return err
		}
		if d.PartSize == 0 {
			send(t, d.Request, content)
		} else {
			f.sendURLs(t, "acme", d, content, 1)
		}
		_, err = f.CompleteUpload(as(t, "acme"), d.ID)
		return err
	}
	ways := []func() error{
		func() error {
			_, err := f.UploadFile(as(t, "acme"), Upload{Filename: "known", Size: size}, bytes.NewReader(content))
			return err
		},
		func() error {
			_, err := f.UploadFile(as(t, "acme"), Upload{Filename: "unknown", Size: unknown}, hidden{bytes.NewReader(content)})
			return err
		},
		func() error {
			_, err := f.UploadFile(as(t, "acme"), Upload{Filename: "form", Size: size - 2, Slack: 2}, bytes.NewReader(content))
			return err
		},
		func() error {
			return complete(f.CreateUploadUrl(as(t, "acme"), Upload{Filename: "url", Size: size, Checksum: sum(content)}, 0, 0))
		},
		func() error {
			return complete(f.CreateUploadUrl(as(t, "acme"), Upload{Filename: "parts", Size: size}, blob.MinPart, 0))
		},
		func() error { _, err := f.CopyFile(as(t, "acme"), source.ID, Copy{}); return err },
	}
	var ready, refused atomic.Int64
	var uploads sync.WaitGroup
	for i := range 4 * len(ways) {
		uploads.Go(func() {
			switch err := ways[i%len(ways)](); {
			case err == nil:
				ready.Add(1)
			case errs.Is(err, errs.ResourceExhausted):
				refused.Add(1)
			default:
				t.Errorf("way %d: %v", i%len(ways), err)
			}
		})
	}
	uploads.Wait()
	if count, bytes := f.usage(t, "acme"); ready.Load() != fit || bytes != (fit+1)*size || count != fit+1 {
		t.Errorf("%d are there and %d refused; %d files of %d bytes are counted", ready.Load(), refused.Load(), count, bytes)
	}
	eventually(t, "all that are there are ready", func() bool {
		files, _, err := f.ListFiles(as(t, "acme"), Filter{State: Ready}, 0, "")
		keys, begun := f.objects(t)
		return err == nil && len(files) == fit+1 && len(keys) == fit+1 && len(begun) == 0
	})
}

// A tenant that may publish nothing can still delete its files, and is told of what it deletes. Of new files it is told as long as there
// is room among its waiting messages; else there are none.
func TestQuotasOfMessages(t *testing.T) {
	t.Parallel()
	for quota, refuses := range map[string]bool{
		"dead_letters": false, "queue_messages": false, "queue_bytes": false, "waiting_messages": true, "waiting_bytes": true,
	} {
		t.Run(quota, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, Limits{})
			f.listen(t, "acme")
			there := f.upload(t, "acme", Upload{Filename: "there", Size: 5}, []byte("there"))
			if _, err := pgtest.Owner(t, f.url).Exec(t.Context(), `INSERT INTO tenant_usage (tenant, resource, n, quota) VALUES ('acme', $1, 1000000, 2)
				ON CONFLICT (tenant, resource) DO UPDATE SET n = 1000000, quota = 2`, quota); err != nil {
				t.Fatal(err)
			}
			f = on(t, f.server, f.url, Limits{}) // A process that knows of this.
			_, err := f.UploadFile(as(t, "acme"), Upload{Filename: "new", Size: 3}, bytes.NewReader([]byte("new")))
			if errs.Is(err, errs.ResourceExhausted) != refuses || !refuses && err != nil {
				t.Errorf("a new file: %v", err)
			}
			if err := f.DeleteFile(as(t, "acme"), there.ID); err != nil {
				t.Error(err)
			}
			if n := f.heard(t, deleted); n != 1 {
				t.Errorf("told %d times of the deletion", n)
			}
		})
	}
}
