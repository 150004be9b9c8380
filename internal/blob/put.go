package blob

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// MaxPut is the most bytes of an object that is put at once, and of a part (S3's own limit).
const MaxPut = 5 << 30

// Ref is an object as it was stored: reads of a Ref never return bytes of another.
type Ref struct {
	Key     string
	ETag    string // with its quotes, as S3 has it
	Version string // empty where the bucket keeps no versions
}

// Put stores the size bytes of body as an object, at most MaxPut. The body is sent as it is read. It is read once, unless it
// is an io.Seeker: then attempts that fail are repeated. Errors: those of the body, io.ErrUnexpectedEOF if it is shorter than
// size; Unavailable. After an error the object may nevertheless be there, or come later.
func (b *Bucket) Put(ctx context.Context, key string, body io.Reader, size int64) (Ref, error) {
	var out *s3.PutObjectOutput
	err := send(ctx, body, size, func(ctx context.Context, body io.Reader, options ...func(*s3.Options)) (err error) {
		out, err = b.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: body, ContentLength: &size}, options...)
		return err
	})
	if err != nil {
		return Ref{}, err
	}
	return Ref{key, aws.ToString(out.ETag), aws.ToString(out.VersionId)}, nil
}

// send calls request with a body. It ends the request when the bucket takes no byte of it for a while.
func send(ctx context.Context, body io.Reader, size int64, request func(context.Context, io.Reader, ...func(*s3.Options)) error) error {
	if seeker, ok := body.(io.ReadSeeker); ok {
		return classify(ctx, request(ctx, seeker, unsigned))
	}
	if size == 0 {
		return classify(ctx, request(ctx, nil, unsigned))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &source{body: body, left: size, stalled: time.AfterFunc(stallLimit, func() { cancel(errStalled) })}
	defer s.stalled.Stop()
	err := request(ctx, s, unsigned, once)
	if s.err != nil {
		return s.err
	}
	return classify(ctx, err)
}

// source is a body on its way. While it is read, nobody waits for the bucket; the reader has its own time limit.
type source struct {
	body    io.Reader
	left    int64
	err     error // of body
	stalled *time.Timer
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.stalled.Stop()
	n, err := s.body.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	switch {
	case s.left == 0:
		return n, io.EOF // From here on the time limit of the answer applies.
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	s.err = err
	s.stalled.Reset(stallLimit)
	return n, err
}
