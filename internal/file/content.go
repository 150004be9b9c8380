package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"plinth/internal/blob"
	"plinth/internal/errs"
)

// content is what was received and stored.
type content struct {
	object      blob.Ref
	size        int64
	checksum    [sha256.Size]byte
	contentType string
	head        []byte
}

// check returns an error if the content is not what the upload said.
func (c content) check(u Upload) error {
	if sum := hex.EncodeToString(c.checksum[:]); u.Checksum != "" && sum != u.Checksum {
		return errs.New(errs.InvalidArgument, "checksum: the bytes have the SHA-256 %s, not %s", sum, u.Checksum)
	}
	return nil
}

// errLong says that an intake has had as many bytes as it takes.
var errLong = errors.New("more bytes than are taken")

// intake is a body on its way: it counts and digests what is read of it.
type intake struct {
	body io.Reader
	most int64 // bytes that it takes
	size int64
	hash hash.Hash
	head []byte
	end  bool
}

func newIntake(body io.Reader, most int64) *intake {
	return &intake{body: body, most: most, hash: sha256.New(), head: make([]byte, 0, sniffed)}
}

func (in *intake) Read(p []byte) (int, error) {
	n, err := in.body.Read(p)
	if in.size += int64(n); in.size > in.most {
		return 0, errLong
	}
	in.hash.Write(p[:n])
	if room := cap(in.head) - len(in.head); room > 0 {
		in.head = append(in.head, p[:min(n, room)]...)
	}
	in.end = in.end || errors.Is(err, io.EOF)
	return n, err
}

func (in *intake) content() content {
	return content{size: in.size, checksum: [sha256.Size]byte(in.hash.Sum(nil)), head: in.head}
}

// receive stores a body as the object of a file.
func (s *Service) receive(ctx context.Context, f File, u Upload, body io.Reader) (content, error) {
	most := s.quotas.size.Limit(ctx)
	limit := int64(1) << 62
	if most > 0 {
		limit = most
	}
	in := newIntake(body, limit)
	object, err := s.store(ctx, f, u, in)
	switch {
	case errors.Is(err, errLong):
		return content{}, errTooLarge(most)
	case errors.Is(err, io.ErrUnexpectedEOF) && in.end:
		return content{}, errs.Wrap(err, errs.InvalidArgument, "size: %d bytes came, and %d were to come", in.size, u.Size)
	case err != nil:
		return content{}, err
	}
	c := in.content()
	c.object, c.contentType = object, contentType(c.head, f.DeclaredType)
	return c, nil
}

// store sends a body to the bucket, in one of three ways: whole, where its length is known; in parts that are sent as they come,
// where it is too long for that; in parts that are held until their length is known, where the body's length is not.
func (s *Service) store(ctx context.Context, f File, u Upload, in *intake) (object blob.Ref, err error) {
	switch {
	case u.Size == unknown:
		return s.storeUnknown(ctx, f, in)
	case u.Size > s.maxPut:
		object, err = s.storeLarge(ctx, f, u.Size, in)
	default:
		object, err = s.bucket.Put(ctx, f.Key(), in, u.Size)
	}
	if err != nil {
		return object, err
	}
	return s.settle(ctx, f, u, in, object)
}

// settle reads a body of known length to its end. Bytes that come within the slack are added to the object.
func (s *Service) settle(ctx context.Context, f File, u Upload, in *intake, object blob.Ref) (blob.Ref, error) {
	rest, err := io.ReadAll(io.LimitReader(in, int64(u.Slack)+1))
	switch {
	case err != nil:
		return object, err
	case len(rest) > u.Slack:
		return object, errs.New(errs.InvalidArgument, "size: more than %d bytes came", u.Size)
	case len(rest) == 0:
		return object, nil
	}
	if err := s.takeMore(ctx, f, int64(len(rest))); err != nil {
		return object, err
	}
	if u.Size < blob.MinPart {
		return s.putAgain(ctx, object, u.Size, rest)
	}
	return s.inParts(ctx, f, func(ctx context.Context, upload blob.Upload) ([]blob.Part, error) {
		first, err := upload.CopyPart(ctx, 1, object, 0, u.Size)
		if err != nil {
			return nil, err
		}
		last, err := upload.Part(ctx, 2, bytes.NewReader(rest), int64(len(rest)))
		return []blob.Part{first, last}, err
	})
}

// putAgain replaces a small object by one with more bytes at its end.
func (s *Service) putAgain(ctx context.Context, object blob.Ref, size int64, more []byte) (blob.Ref, error) {
	r, err := s.bucket.Open(ctx, object, 0, size)
	if err != nil {
		return object, err
	}
	defer r.Close()
	whole, err := io.ReadAll(r)
	if err != nil {
		return object, err
	}
	whole = append(whole, more...)
	return s.bucket.Put(ctx, object.Key, bytes.NewReader(whole), int64(len(whole)))
}
