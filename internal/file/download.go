package file

import (
	"context"
	"io"

	"plinth/internal/blob"
	"plinth/internal/errs"
)

// chunkSize is how much of a file is held at a time while it is sent.
const chunkSize = 256 << 10

// DownloadFile calls send with the bytes of a file that Readable returned, length from offset, in chunks. A chunk is valid until send
// returns. When the bucket breaks off, the rest is asked for, and send sees nothing of it. Errors: those of send; DataLoss for
// bytes that are no longer there, or were replaced; Unavailable.
func (s *Service) DownloadFile(ctx context.Context, f File, offset, length int64, send func(chunk []byte) error) error {
	r, err := s.open(ctx, f, offset, length)
	if err != nil {
		return err
	}
	defer r.Close()
	chunk := make([]byte, min(chunkSize, length))
	for left := length; left > 0; {
		n, err := io.ReadFull(r, chunk[:min(chunkSize, left)])
		if err != nil {
			return err
		}
		if err := send(chunk[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

func (s *Service) open(ctx context.Context, f File, offset, length int64) (*blob.Reader, error) {
	return s.bucket.Open(ctx, f.ref(), offset, length)
}

// within returns how many bytes a download from offset has; length 0 is all. Errors: InvalidArgument.
func (f File) within(offset, length int64) (int64, error) {
	if offset > f.Size {
		return 0, errs.New(errs.InvalidArgument, "offset: the file has %d bytes", f.Size)
	}
	if length == 0 || length > f.Size-offset {
		length = f.Size - offset
	}
	return length, nil
}
