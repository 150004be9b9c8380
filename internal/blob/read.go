package blob

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"plinth/internal/errs"
	"plinth/internal/loop"
)

// A read that breaks off is continued where it was. It ends with an error at the last of maxFaults in a row, between each of
// which fewer than forgiven bytes came.
const (
	maxFaults = 3
	forgiven  = 8 << 20
	// readBackoff is before the second request: whoever reads waits for the next bytes.
	readBackoff = 50 * time.Millisecond
)

// Reader reads bytes of an object. It is not safe for concurrent use.
type Reader struct {
	ctx          context.Context
	cancel       context.CancelFunc
	bucket       *Bucket
	from         Ref
	offset, left int64
	body         io.ReadCloser // nil between requests
	faults       int
	since        int64 // bytes since the last fault
}

// Open returns a reader of length bytes of an object from an offset. The first request has been answered when it returns.
// Errors, also those of Read: DataLoss if the object is not there or not the one that was stored; Unavailable.
func (b *Bucket) Open(ctx context.Context, from Ref, offset, length int64) (*Reader, error) {
	r := &Reader{bucket: b, from: from, offset: offset, left: length}
	r.ctx, r.cancel = context.WithCancel(ctx)
	for r.left > 0 && r.body == nil {
		if err := r.request(); err != nil {
			if err = r.fault(err); err != nil {
				r.cancel()
				return nil, err
			}
		}
	}
	return r, nil
}

// Read reads the next bytes; io.EOF comes after the last one alone.
func (r *Reader) Read(p []byte) (int, error) {
	for r.left > 0 {
		var n int
		var err error
		if r.body == nil {
			err = r.request()
		} else {
			n, err = r.next(p)
		}
		if err != nil {
			err = r.fault(err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

func (r *Reader) request() error {
	in := &s3.GetObjectInput{Bucket: &r.bucket.name, Key: &r.from.Key}
	if r.from.Version != "" {
		in.VersionId = &r.from.Version
	} else if r.from.ETag != "" {
		in.IfMatch = &r.from.ETag
	}
	text := byteRange(r.offset, r.left)
	in.Range = &text
	out, err := r.bucket.client.GetObject(r.ctx, in)
	if err != nil {
		return classify(r.ctx, err)
	}
	if out.ContentLength != nil && *out.ContentLength != r.left {
		_ = out.Body.Close()
		return lost(fmt.Errorf("%d bytes from %d are %d", r.left, r.offset, *out.ContentLength))
	}
	r.body = out.Body
	return nil
}

// next reads from the body. A body that sends nothing for a while is closed.
func (r *Reader) next(p []byte) (int, error) {
	stalled := time.AfterFunc(stallLimit, func() { _ = r.body.Close() })
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	stalled.Stop()
	r.offset, r.left, r.since = r.offset+int64(n), r.left-int64(n), r.since+int64(n)
	if r.left == 0 {
		return n, nil
	}
	return n, err // Also io.EOF: it is too early.
}

// fault prepares another request, or returns the error that ends the reading.
func (r *Reader) fault(err error) error {
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
		err = classify(r.ctx, fmt.Errorf("the answer broke off: %w", err))
	}
	switch {
	case errs.Is(err, errs.NotFound), errs.Is(err, errs.FailedPrecondition):
		return lost(err)
	case !errs.Is(err, errs.Unavailable):
		return err
	}
	if r.since >= forgiven {
		r.faults = 0
	}
	r.since = 0
	if r.faults++; r.faults >= maxFaults {
		return err
	}
	if !loop.Sleep(r.ctx, loop.Delay(r.faults, readBackoff, r.bucket.maxBackoff)) {
		return context.Cause(r.ctx)
	}
	return nil
}

// Close ends the reading.
func (r *Reader) Close() {
	r.cancel()
	if r.body != nil {
		_ = r.body.Close()
	}
}

func byteRange(offset, length int64) string {
	return fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)
}
