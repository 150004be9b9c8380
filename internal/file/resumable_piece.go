package file

import (
	"context"
	"errors"
	"fmt"
	"io"

	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// piece is what one request to the bucket stored of an upload.
type piece struct {
	start, size int64
	part        int32    // its number; 0 for a tail
	ref         blob.Ref // of a part the ETag alone
	recorded    bool     // a commit knows it
}

func sizeOf(pieces []piece) (n int64) {
	for _, p := range pieces {
		n += p.size
	}
	return n
}

// keep stores bytes of an upload: as a part, if they complete one or are the last, or else as a tail.
func (s *Service) keep(ctx context.Context, r *Resumable, b *buffer) error {
	if sizeOf(r.tails)+b.size == partSize || r.Received+b.size == r.Length {
		return s.keepPart(ctx, r, b.reader(), b.size)
	}
	tail, body := piece{start: r.Received, size: b.size}, io.Reader(b.reader())
	merged := len(r.tails) == maxTails
	if merged {
		joined := s.join(ctx, r.tails, body)
		defer joined.close()
		tail.start, tail.size, body = r.tails[0].start, sizeOf(r.tails)+b.size, joined
	}
	// No process uses a name of another one.
	key := fmt.Sprintf("%s.tail-%d-%d-%d", r.File.Key(), r.token, tail.start, tail.size)
	ref, err := s.bucket.Put(ctx, key, body, tail.size)
	if err != nil {
		return err
	}
	tail.ref = ref
	if merged {
		r.tails, r.stale = nil, append(r.stale, r.tails...)
	}
	r.tails = append(r.tails, tail)
	return nil
}

// keepPart stores the tails and size bytes of body as a part.
func (s *Service) keepPart(ctx context.Context, r *Resumable, body io.Reader, size int64) error {
	if r.File.uploadID == "" {
		if err := s.startParts(ctx, r); err != nil {
			return err
		}
	}
	number, held, err := nextPart(ctx, s.db, r.File.ID, r.token)
	switch {
	case err != nil:
		return err
	case !held:
		return errUploadTaken
	case number > blob.MaxParts:
		return errs.New(errs.ResourceExhausted, "the upload was interrupted too often; begin it anew")
	}
	p := piece{start: r.Received - sizeOf(r.tails), size: sizeOf(r.tails) + size, part: number}
	if len(r.tails) > 0 {
		joined := s.join(ctx, r.tails, body)
		defer joined.close()
		body = joined
	}
	stored, err := s.bucket.Upload(r.File.Key(), r.File.uploadID).Part(ctx, number, body, p.size)
	if err != nil {
		return err
	}
	p.ref.ETag = stored.ETag
	r.fresh, r.tails, r.stale = append(r.fresh, p), nil, append(r.stale, r.tails...)
	return nil
}

// startParts begins the object. It is recorded before its first part, so that it is removed with the file.
func (s *Service) startParts(ctx context.Context, r *Resumable) error {
	upload, err := s.bucket.Start(ctx, r.File.Key())
	if err != nil {
		return err
	}
	err = s.commitWith(ctx, r, func(tx *pg.Tx) error { return updateUploadID(ctx, tx, r.File.ID, upload) })
	if isRefused(err) {
		_ = upload.Abort(ctx)
	}
	if err == nil {
		r.File.uploadID = upload.ID
	}
	return err
}

// commit records how far an upload is, and removes the tails that are part of it no longer.
func (s *Service) commit(ctx context.Context, r *Resumable) error {
	err := s.commitWith(ctx, r, func(tx *pg.Tx) error {
		if err := updateResumable(ctx, tx, r); err != nil {
			return err
		}
		return replaceTails(ctx, tx, r.File.ID, append(r.fresh, r.tails...))
	})
	if isRefused(err) {
		s.forget(ctx, r.unrecorded())
	}
	if err != nil {
		return err // It may be committed all the same: then what is stored is needed.
	}
	s.forget(ctx, r.stale)
	r.fresh, r.stale = nil, nil
	for i := range r.tails {
		r.tails[i].recorded = true
	}
	return nil
}

// isRefused reports whether an upload is no longer this process's, or nobody's.
func isRefused(err error) bool {
	return errors.Is(err, errUploadTaken) || errors.Is(err, errUploadGone)
}

// commitWith calls change in a transaction, if this process still has the lease and the file is pending. The upload expires later for it.
func (s *Service) commitWith(ctx context.Context, r *Resumable, change func(tx *pg.Tx) error) error {
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		due, pending, err := lockPending(ctx, tx, r.File.ID, s.limits.ResumeWithin)
		switch {
		case err != nil:
			return err
		case !pending:
			return errUploadGone
		}
		held, _, err := renewUpload(ctx, tx, r.File.ID, r.token, uploadLease)
		switch {
		case err != nil:
			return err
		case !held:
			return errUploadTaken
		}
		r.ExpiresAt = due
		return change(tx)
	})
}

// unrecorded returns the tails that no commit knows.
func (r *Resumable) unrecorded() (tails []piece) {
	for _, p := range append(r.stale, r.tails...) {
		if !p.recorded {
			tails = append(tails, p)
		}
	}
	return tails
}

// forget removes tails. What it cannot remove goes later.
func (s *Service) forget(ctx context.Context, tails []piece) {
	for _, p := range tails {
		_ = s.bucket.RemoveObject(ctx, p.ref)
	}
}

// complete makes the file of an upload all of which is stored. It can be called again after an error.
func (s *Service) complete(ctx context.Context, r *Resumable) error {
	if len(r.tails) > 0 { // The length was said after the last byte.
		if err := s.keepPart(ctx, r, nothing{}, 0); err != nil {
			return err
		}
		if err := s.commit(ctx, r); err != nil {
			return err
		}
	}
	c, err := s.assembleResumable(ctx, r)
	if err == nil {
		err = c.check(Upload{Checksum: r.expected})
	}
	if errs.Is(err, errs.DataLoss) || errs.Is(err, errs.InvalidArgument) {
		s.fail(ctx, r.File, err)
	}
	if err != nil {
		return err
	}
	f, err := s.finish(ctx, r.File, c)
	if err != nil {
		return err
	}
	r.File, r.ExpiresAt = f, f.ExpiresAt
	return nil
}

// nothing is a body of no bytes.
type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, io.EOF }

// assembleResumable makes the object of the parts, and returns what it is.
func (s *Service) assembleResumable(ctx context.Context, r *Resumable) (c content, err error) {
	c = content{size: r.Length}
	if r.Length == 0 {
		c.object, err = s.bucket.Put(ctx, r.File.Key(), nil, 0)
	} else {
		c.object, err = s.assembleParts(ctx, r)
	}
	if err != nil {
		return c, err
	}
	digest, err := unmarshal(r.digest)
	if err != nil {
		return c, err
	}
	c.checksum = [32]byte(digest.Sum(nil))
	head := make([]byte, min(sniffed, r.Length))
	if len(head) > 0 {
		begin, err := s.bucket.Open(ctx, c.object, 0, int64(len(head)))
		if err != nil {
			return c, err
		}
		defer begin.Close()
		if _, err := io.ReadFull(begin, head); err != nil {
			return c, err
		}
	}
	c.contentType = contentType(head, r.File.DeclaredType)
	return c, nil
}

func (s *Service) assembleParts(ctx context.Context, r *Resumable) (blob.Ref, error) {
	pieces, err := selectPieces(ctx, s.db, r.File.ID, true)
	if err != nil {
		return blob.Ref{}, err
	}
	var parts []blob.Part
	at := int64(0)
	for _, p := range pieces {
		if p.start != at {
			break
		}
		at += p.size
		parts = append(parts, blob.Part{Number: p.part, ETag: p.ref.ETag, Size: p.size})
	}
	if at != r.Length {
		return blob.Ref{}, fmt.Errorf("the parts of upload %s end at %d of %d", r.File.ID, at, r.Length)
	}
	object, err := s.bucket.Upload(r.File.Key(), r.File.uploadID).Complete(ctx, parts)
	if !errs.Is(err, errs.NotFound) {
		return object, err
	}
	// It may be complete already: nobody completes it with other parts.
	there, missing := s.bucket.Head(ctx, r.File.Key())
	switch {
	case errs.Is(missing, errs.NotFound) || missing == nil && there.Size != r.Length:
		return object, errs.Wrap(err, errs.DataLoss, "what was stored of the upload is gone")
	default:
		return there.Ref, missing
	}
}

// join returns a reader of tails and what follows them. It must be closed.
func (s *Service) join(ctx context.Context, tails []piece, rest io.Reader) *joined {
	return &joined{ctx: ctx, bucket: s.bucket, tails: tails, rest: rest}
}

// joined reads one tail after the other, and then the rest.
type joined struct {
	ctx    context.Context
	bucket *blob.Bucket
	tails  []piece
	tail   *blob.Reader // that is being read
	rest   io.Reader
}

func (j *joined) Read(p []byte) (n int, err error) {
	for len(j.tails) > 0 {
		if j.tail == nil {
			if j.tail, err = j.bucket.Open(j.ctx, j.tails[0].ref, 0, j.tails[0].size); err != nil {
				return 0, err
			}
		}
		if n, err = j.tail.Read(p); !errors.Is(err, io.EOF) {
			return n, err
		}
		j.close()
		j.tails = j.tails[1:]
	}
	return j.rest.Read(p)
}

func (j *joined) close() {
	if j.tail != nil {
		j.tail.Close()
		j.tail = nil
	}
}
