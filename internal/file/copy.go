package file

import (
	"context"
	"encoding/hex"
	"time"

	"plinth/internal/blob"
	"plinth/internal/observe"
)

// Copy is what a copy is to have of its own; what is empty is that of the source.
type Copy struct {
	Filename       string
	Folder         *string
	Attributes     map[string]string
	ExpiresAt      time.Time // zero is never
	IdempotencyKey string
}

// copyWait is how long CopyFile waits for a copy. A longer one goes on, and the file is pending until it is done.
const copyWait = 20 * time.Second

// CopyFile makes a file of the bytes of another one, within the bucket. It returns the new file, which is pending if it takes
// longer than a call may. Errors: NotFound; those of Upload.
func (s *Service) CopyFile(ctx context.Context, id string, c Copy) (File, error) {
	source, err := s.Readable(ctx, id)
	if err != nil {
		return File{}, err
	}
	u := Upload{
		Filename: source.Filename, Folder: source.Folder, DeclaredType: source.DeclaredType, Size: source.Size,
		Attributes: source.Attributes, ExpiresAt: c.ExpiresAt, IdempotencyKey: c.IdempotencyKey,
	}
	if c.Filename != "" {
		u.Filename = c.Filename
	}
	if c.Folder != nil {
		u.Folder = *c.Folder
	}
	if len(c.Attributes) > 0 {
		u.Attributes = c.Attributes
	}
	if err := u.parse(); err != nil {
		return File{}, err
	}
	f, err := s.reserve(ctx, u)
	if err != nil || f.Duplicate {
		return f, err
	}
	done := make(chan error, 1)
	pending := f
	go func() {
		defer observe.LogPanic(s.log)
		copied, err := s.copy(context.WithoutCancel(ctx), source, pending)
		f = copied
		done <- err
	}()
	select {
	case err := <-done:
		return f, err
	case <-time.After(copyWait):
	case <-ctx.Done():
	}
	return pending, nil
}

// copy copies the object of source for a pending file.
func (s *Service) copy(ctx context.Context, source, f File) (File, error) {
	sum, err := hex.DecodeString(source.Checksum)
	if err != nil {
		return f, err
	}
	c := content{size: source.Size, checksum: [32]byte(sum), contentType: source.ContentType}
	err = s.leased(ctx, f, func(ctx context.Context) (err error) {
		c.object, err = s.copyObject(ctx, source, f)
		return err
	})
	if err == nil {
		f, err = s.finish(ctx, f, c)
	}
	if err != nil {
		s.fail(ctx, f, err)
	}
	return f, err
}

// copyPart is how much of a large object is copied at a time.
const copyPart = 1 << 30

// copyObject copies the object of source, in parts if it is larger than one request can copy.
func (s *Service) copyObject(ctx context.Context, source, f File) (blob.Ref, error) {
	if source.Size <= s.maxPut {
		return s.bucket.Copy(ctx, source.ref(), f.Key())
	}
	each := min(copyPart, s.maxPut)
	return s.inParts(ctx, f, func(ctx context.Context, upload blob.Upload) (parts []blob.Part, err error) {
		for offset := int64(0); offset < source.Size; offset += each {
			part, err := upload.CopyPart(ctx, int32(len(parts)+1), source.ref(), offset, min(each, source.Size-offset))
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
		}
		return parts, nil
	})
}
