package file

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"

	"plinth/internal/blob"
	"plinth/internal/errs"
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
