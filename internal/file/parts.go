package file

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

const (
	// partSize is that of parts that are held in memory. All but the last are equal, as some servers want.
	partSize = 8 << 20
	// partsAtOnce is how many parts of one upload are sent at a time, while the next one is filled.
	partsAtOnce = 2
	// largePart is the least of parts that are sent as they come.
	largePart = 64 << 20
)

// inParts stores the object of a file in parts, which send returns. The upload is recorded before its first part, so that its
// parts are removed if this process dies.
func (s *Service) inParts(ctx context.Context, f File, send func(ctx context.Context, upload blob.Upload) ([]blob.Part, error)) (blob.Ref, error) {
	upload, err := s.bucket.Start(ctx, f.Key())
	if err != nil {
		return blob.Ref{}, err
	}
	if err := updateUploadID(ctx, s.db, f.ID, upload); err != nil {
		return blob.Ref{}, err
	}
	parts, err := send(ctx, upload)
	if err != nil {
		return blob.Ref{}, err
	}
	return upload.Complete(ctx, parts)
}

// storeLarge stores a body of known length in parts that are sent as they come.
func (s *Service) storeLarge(ctx context.Context, f File, size int64, in *intake) (blob.Ref, error) {
	each := max(min(largePart, s.maxPut), (size+blob.MaxParts-1)/blob.MaxParts)
	return s.inParts(ctx, f, func(ctx context.Context, upload blob.Upload) (parts []blob.Part, err error) {
		for left := size; left > 0; left -= each {
			part, err := upload.Part(ctx, int32(len(parts)+1), io.LimitReader(in, min(each, left)), min(each, left))
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
		}
		return parts, nil
	})
}

// storeUnknown stores a body whose length is not known. What fits in one part is put whole.
func (s *Service) storeUnknown(ctx context.Context, f File, in *intake) (blob.Ref, error) {
	place := s.pool.join(auth.TenantOf(ctx))
	defer place.leave()
	first, more, err := s.fill(ctx, f, place, in)
	if err != nil {
		return blob.Ref{}, err
	}
	defer first.free()
	if !more {
		return s.bucket.Put(ctx, f.Key(), first.reader(), first.size)
	}
	return s.inParts(ctx, f, func(ctx context.Context, upload blob.Upload) ([]blob.Part, error) {
		return s.sendParts(ctx, f, upload, place, first, in)
	})
}

// sendParts sends a part and all that follow it. Each is sent while the next ones are filled.
func (s *Service) sendParts(ctx context.Context, f File, upload blob.Upload, place *place, next *buffer, in *intake) (parts []blob.Part, err error) {
	sending, ctx := errgroup.WithContext(ctx)
	sending.SetLimit(partsAtOnce)
	var mu sync.Mutex // guards parts
	for number, more := int32(1), true; next != nil; number++ {
		part := next
		sending.Go(func() error {
			defer observe.LogPanic(s.log)
			defer part.free()
			p, err := upload.Part(ctx, number, part.reader(), part.size)
			mu.Lock()
			defer mu.Unlock()
			parts = append(parts, p)
			return err
		})
		if next = nil; !more {
			break
		}
		if number == blob.MaxParts {
			err = errTooLarge(partSize * blob.MaxParts)
			break
		}
		if next, more, err = s.fill(ctx, f, place, in); err != nil {
			break
		}
		if next.size == 0 { // The body ended with the part before.
			next.free()
			next = nil
		}
	}
	if failed := sending.Wait(); failed != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = failed
	}
	return parts, err
}

// fill reads the next part, and takes its bytes from the quota. more is false if the body ended within it.
func (s *Service) fill(ctx context.Context, f File, place *place, in *intake) (part *buffer, more bool, err error) {
	part = place.begin()
	err = part.readFrom(ctx, in)
	if err == nil && part.size > 0 {
		err = s.takeMore(ctx, f, part.size)
	}
	if err != nil {
		part.free()
		return nil, false, err
	}
	part.filled()
	return part, !in.end, nil
}

// takeMore takes more of the quota for a pending file.
func (s *Service) takeMore(ctx context.Context, f File, n int64) error {
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		if err := s.quotas.bytes.Take(ctx, tx, n); err != nil {
			return err
		}
		reserved, err := reserveMore(ctx, tx, f.ID, n)
		if err == nil && !reserved {
			return errs.New(errs.Aborted, "%s", errGivenUp.Message)
		}
		return err
	})
}
