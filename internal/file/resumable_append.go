package file

import (
	"context"
	"errors"
	"hash"
	"io"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

// Append is what a client says of bytes that it adds to an upload.
type Append struct {
	Offset int64           // where they belong
	Length int64           // of the whole content, for an upload that was begun without it; unknown is not said
	Size   int64           // of the body; unknown is not said
	Digest hash.Hash       // of the body; nil is none
	Sum    []byte          // that Digest is to have
	Stop   func(why error) // ends a Read of the body that waits; nil for one that does not wait
}

var (
	errBadSum  = errs.New(errs.InvalidArgument, "Upload-Checksum: the bytes have another checksum; nothing of them is kept")
	errPastEnd = errs.New(errs.InvalidArgument, "the body goes past the end of the upload")
)

// Append adds the bytes of body to an upload, and makes a file of it once all are there. What came of a body that breaks off is kept, unless
// it has a checksum: then all of the body counts, or nothing. Errors: those of body and of GetResumable; Aborted for an offset that is not how
// far the upload is, and for an upload that another process continues; ResourceExhausted, InvalidArgument.
func (s *Service) Append(ctx context.Context, id string, a Append, body io.Reader) (Resumable, error) {
	if err := s.ready(); err != nil {
		return Resumable{}, err
	}
	r, err := s.takeResumable(ctx, id)
	if err != nil {
		return Resumable{}, err
	}
	if r.done() {
		return *r, a.fits(r)
	}
	stop := a.Stop
	if stop == nil {
		stop = func(error) {}
	}
	err = s.leasedResumable(ctx, r, stop, func(keep context.Context) error {
		if err := a.fits(r); err != nil {
			return err
		}
		if err := s.declare(keep, r, a.Length); err != nil {
			return err
		}
		if err := s.appendTo(ctx, keep, r, a, body); err != nil {
			return err
		}
		if r.Received != r.Length {
			return nil
		}
		return s.complete(keep, r)
	})
	return *r, err
}

// fits returns an error for bytes that do not belong to the upload as it is.
func (a Append) fits(r *Resumable) error {
	switch {
	case a.Offset != r.Received:
		return errs.New(errs.Aborted, "Upload-Offset: the upload has %d bytes, and goes on there", r.Received)
	case a.Length != unknown && r.Length != unknown && a.Length != r.Length:
		return errs.New(errs.InvalidArgument, "Upload-Length: the upload has %d bytes, as was said before", r.Length)
	case a.Length != unknown && a.Length < r.Received:
		return errs.New(errs.InvalidArgument, "Upload-Length: %d bytes are there already", r.Received)
	case r.Length != unknown && a.Size > r.Length-r.Received:
		return errPastEnd
	}
	return nil
}

// declare sets the length of an upload that was begun without it.
func (s *Service) declare(ctx context.Context, r *Resumable, length int64) error {
	if length == unknown || r.Length != unknown {
		return nil
	}
	if most := s.MaxResumable(ctx); length > most {
		return errTooLarge(most)
	}
	if err := s.cover(ctx, r, length); err != nil {
		return err
	}
	r.Length = length
	return s.commit(ctx, r)
}

// cover takes from the quota what an upload of size bytes needs more.
func (s *Service) cover(ctx context.Context, r *Resumable, size int64) error {
	more := size - r.reserved
	if more <= 0 {
		return nil
	}
	err := s.takeMore(ctx, r.File, more)
	if err == nil {
		r.reserved = size
	}
	return err
}

// arriving is a body on its way into an upload.
type arriving struct {
	body   io.Reader
	digest hash.Hash // of the whole content
	sum    hash.Hash // of the body; nil is none
	broke  error     // what the body ended with, but for its end
	until  time.Time // a part takes what comes until then; zero is all
	late   bool      // it has ended for that reason
}

func (in *arriving) Read(p []byte) (int, error) {
	if !in.until.IsZero() && time.Now().After(in.until) {
		in.late = true
		return 0, io.EOF
	}
	n, err := in.body.Read(p)
	in.digest.Write(p[:n])
	if in.sum != nil {
		in.sum.Write(p[:n])
	}
	if err != nil && !errors.Is(err, io.EOF) {
		in.broke = err
	}
	return n, err
}

// appendTo stores a body. ctx is that of the body.
func (s *Service) appendTo(ctx, keep context.Context, r *Resumable, a Append, body io.Reader) error {
	if body == nil {
		return nil
	}
	digest, err := unmarshal(r.digest)
	if err != nil {
		return err
	}
	in := &arriving{body: body, digest: digest, sum: a.Digest}
	place := s.pool.join(auth.TenantOf(ctx))
	defer place.leave()
	for more := true; more && err == nil; {
		more, err = s.appendPart(ctx, keep, r, in, place)
	}
	if in.sum == nil {
		return errors.Join(err, in.broke)
	}
	switch {
	case err != nil:
	case in.broke != nil:
		err = in.broke
	case string(in.sum.Sum(nil)) != string(a.Sum):
		err = errBadSum
	default:
		return s.commit(keep, r)
	}
	s.forget(keep, r.unrecorded()) // Parts that are not recorded go with the upload.
	return err
}

// appendPart stores as much of a body as makes a part, or what came of it within a while: so a slow client does not hold memory for long, and
// loses little if the process dies. more is false if the body ended with that.
func (s *Service) appendPart(ctx, keep context.Context, r *Resumable, in *arriving, place *place) (more bool, err error) {
	most := r.Length
	if most == unknown {
		most = s.MaxResumable(ctx)
	}
	room := min(partSize-sizeOf(r.tails), most-r.Received)
	part := place.begin()
	defer part.free()
	in.until, in.late = time.Now().Add(s.fillTime), false
	if room > 0 {
		if err = part.readFrom(ctx, io.LimitReader(in, room)); err != nil && in.broke == nil {
			in.broke = err // There was no room for the rest.
		}
	}
	in.until = time.Time{}
	if part.size == most-r.Received && in.broke == nil { // Nothing may come after it.
		if n, _ := io.ReadFull(in, make([]byte, 1)); n > 0 && r.Length == unknown {
			return false, errTooLarge(most)
		} else if n > 0 {
			return false, errPastEnd
		}
	}
	if part.size == 0 {
		return in.late && in.broke == nil, nil
	}
	if err := s.cover(keep, r, r.Received+part.size); err != nil {
		return false, err
	}
	part.filled()
	if err := s.keep(keep, r, part); err != nil {
		return false, err
	}
	r.Received += part.size
	r.digest = marshal(in.digest)
	if in.sum == nil {
		err = s.commit(keep, r)
	}
	return (part.size == room || in.late) && in.broke == nil && r.Received < most, err
}
