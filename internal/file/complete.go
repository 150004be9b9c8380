package file

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/pg"
)

// assembleWait is how long the object of parts is waited for that another call has completed.
const assembleWait = 10 * time.Second

// CompleteUpload makes a file of what a client has sent to the bucket. It is ready if the bucket has checked its SHA-256, else it is
// verifying until a worker has read it. Doing it again returns the file. Errors: NotFound; FailedPrecondition while bytes are
// missing, and for an upload that was given up; InvalidArgument for bytes that are not what was declared: the upload fails;
// Unavailable.
func (s *Service) CompleteUpload(ctx context.Context, id string) (File, error) {
	if err := s.ready(); err != nil {
		return File{}, err
	}
	d, err := s.pending(ctx, id)
	if d.isComplete() {
		return d.File, nil
	}
	if err != nil {
		return File{}, err
	}
	c, proven, err := s.collect(ctx, d)
	switch {
	case errs.Is(err, errs.InvalidArgument): // What is stored cannot be replaced.
		s.fail(ctx, d.File, err)
		return File{}, err
	case err != nil:
		return File{}, err
	case proven:
		d.File, err = s.finish(ctx, d.File, c)
	default:
		d.File, err = s.await(ctx, d.File, c)
	}
	if errors.Is(err, errGivenUp) { // Perhaps by another call that completed it.
		if d, again := s.pending(ctx, id); again != nil && d.isComplete() {
			return d.File, nil
		}
	}
	return d.File, err
}

// isComplete reports whether an upload by URL has become a file.
func (d Direct) isComplete() bool {
	return !d.Until.IsZero() && (d.State == Ready || d.State == Verifying) && !d.isGone()
}

// collect returns what the bucket has of an upload. proven reports whether it has checked the SHA-256.
func (s *Service) collect(ctx context.Context, d Direct) (c content, proven bool, err error) {
	var object blob.Object
	if d.PartSize > 0 {
		object, err = s.assemble(ctx, d)
	} else if object, err = s.bucket.Head(ctx, d.Key()); errs.Is(err, errs.NotFound) {
		err = errs.Wrap(err, errs.FailedPrecondition, "id: nothing was sent to the URL so far")
	}
	if err == nil {
		err = d.check(object)
	}
	if err != nil {
		return c, false, err
	}
	c = content{object: object.Ref, size: object.Size}
	if c.head, err = s.readHead(ctx, object); err != nil {
		return c, false, err
	}
	c.contentType = contentType(c.head, d.DeclaredType)
	if object.Checksum == "" {
		return c, false, nil
	}
	sum, err := hex.DecodeString(object.Checksum)
	copy(c.checksum[:], sum)
	return c, true, err
}

// check returns an error if an object is not what the upload was to store.
func (d Direct) check(o blob.Object) error {
	switch {
	case o.Size != d.size:
		return errs.New(errs.InvalidArgument, "size: %d bytes were sent, and %d were declared", o.Size, d.size)
	case o.Encoding != "":
		return errs.New(errs.InvalidArgument, "Content-Encoding: %.64q was sent with the bytes, which is not allowed", o.Encoding)
	case d.expected != "" && o.Checksum != "" && o.Checksum != d.expected:
		return errs.New(errs.InvalidArgument, "checksum: the bytes have the SHA-256 %s, not %s", o.Checksum, d.expected)
	}
	return nil
}

// assemble makes an object of the parts that were sent, once all are there.
func (s *Service) assemble(ctx context.Context, d Direct) (o blob.Object, err error) {
	if d.uploadID == "" {
		return o, errs.New(errs.FailedPrecondition, "id: no part was sent so far")
	}
	upload := s.bucket.Upload(d.Key(), d.uploadID)
	parts, err := upload.Parts(ctx)
	if err == nil {
		if err = d.checkParts(parts); err == nil {
			_, err = upload.Complete(ctx, parts)
		}
	}
	if err != nil && !errs.Is(err, errs.NotFound) {
		return o, err
	}
	// If there is no such upload any more, another call has just completed it, or a process did that died then: the object tells,
	// which some servers show a moment later.
	for end := time.Now().Add(assembleWait); ; {
		o, err = s.bucket.Head(ctx, d.Key())
		if !errs.Is(err, errs.NotFound) {
			return o, err
		}
		if time.Now().After(end) {
			return o, errs.Wrap(err, errs.FailedPrecondition, "id: the parts that were sent are no longer there; begin anew")
		}
		if !loop.Sleep(ctx, sameKeyPoll) {
			return o, ctx.Err()
		}
	}
}

// checkParts returns an error unless all parts are there as they were to be.
func (d Direct) checkParts(parts []blob.Part) error {
	sizes := make(map[int]int64, len(parts))
	for _, p := range parts {
		sizes[int(p.Number)] = p.Size
	}
	for number := 1; number <= d.PartCount(); number++ {
		_, want := d.part(number)
		switch size, sent := sizes[number]; {
		case !sent:
			return errs.New(errs.FailedPrecondition, "id: part %d was not sent so far; %d of %d parts are there", number, len(parts), d.PartCount())
		case size != want:
			return errs.New(errs.FailedPrecondition, "id: part %d has %d bytes and needs %d; send it again", number, size, want)
		}
	}
	if len(parts) > d.PartCount() {
		return errs.New(errs.InvalidArgument, "id: there are %d parts, and %d were to be sent", len(parts), d.PartCount())
	}
	return nil
}

// readHead returns the first bytes of an object.
func (s *Service) readHead(ctx context.Context, o blob.Object) ([]byte, error) {
	r, err := s.bucket.Open(ctx, o.Ref, 0, min(o.Size, sniffed))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// await makes a pending file one that is verifying, and has a worker read it.
func (s *Service) await(ctx context.Context, f File, c content) (File, error) {
	err := s.db.InTx(ctx, func(tx *pg.Tx) error {
		stored, pending, err := markUnverified(ctx, tx, f.ID, c)
		if err == nil && !pending {
			err = errGivenUp
		}
		if err != nil {
			return err
		}
		f = stored
		tx.AfterCommit(func() { s.notifier.Notify(channel, unverified) })
		return nil
	})
	return f, err
}
