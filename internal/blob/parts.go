package blob

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"plinth/internal/errs"
)

// Limits of S3 on parts.
const (
	MinPart  = 5 << 20 // but for the last one
	MaxParts = 10_000
)

// Upload is an object that is stored in parts. Nothing of it can be read before Complete.
type Upload struct {
	Key, ID string
	bucket  *Bucket
}

// Part is a part that was stored.
type Part struct {
	Number int32 // from 1
	ETag   string
	Size   int64
}

// Start begins an upload.
func (b *Bucket) Start(ctx context.Context, key string) (Upload, error) {
	out, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b.name, Key: &key})
	if err != nil {
		return Upload{}, classify(ctx, err)
	}
	return b.Upload(key, aws.ToString(out.UploadId)), nil
}

// Upload returns an upload that was begun before.
func (b *Bucket) Upload(key, id string) Upload { return Upload{key, id, b} }

// Part stores a part, as Put does an object. A part that is stored again replaces the one before.
func (u Upload) Part(ctx context.Context, number int32, body io.Reader, size int64) (Part, error) {
	var out *s3.UploadPartOutput
	err := send(ctx, body, size, func(ctx context.Context, body io.Reader, options ...func(*s3.Options)) (err error) {
		out, err = u.bucket.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &u.bucket.name, Key: &u.Key, UploadId: &u.ID, PartNumber: &number, Body: body, ContentLength: &size,
		}, options...)
		return err
	})
	if err != nil {
		return Part{}, err
	}
	return Part{number, aws.ToString(out.ETag), size}, nil
}

// CopyPart stores bytes of an object as a part, without reading them. Errors: DataLoss if the object is not there or not the one that
// was stored.
func (u Upload) CopyPart(ctx context.Context, number int32, from Ref, offset, length int64) (Part, error) {
	out, err := u.bucket.client.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
		Bucket: &u.bucket.name, Key: &u.Key, UploadId: &u.ID, PartNumber: &number,
		CopySource: u.bucket.source(from), CopySourceIfMatch: &from.ETag, CopySourceRange: aws.String(byteRange(offset, length)),
	})
	if err != nil {
		return Part{}, ofCopy(classify(ctx, err))
	}
	return Part{number, aws.ToString(out.CopyPartResult.ETag), length}, nil
}

// Parts returns the parts that were stored, by their numbers.
func (u Upload) Parts(ctx context.Context) (parts []Part, err error) {
	pages := s3.NewListPartsPaginator(u.bucket.client, &s3.ListPartsInput{Bucket: &u.bucket.name, Key: &u.Key, UploadId: &u.ID})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, classify(ctx, err)
		}
		for _, p := range page.Parts {
			parts = append(parts, Part{aws.ToInt32(p.PartNumber), aws.ToString(p.ETag), aws.ToInt64(p.Size)})
		}
	}
	return parts, nil
}

// Complete makes the object of its parts. It can be called again after an error.
func (u Upload) Complete(ctx context.Context, parts []Part) (Ref, error) {
	parts = slices.SortedFunc(slices.Values(parts), func(a, b Part) int { return int(a.Number - b.Number) })
	list := make([]types.CompletedPart, len(parts))
	for i, p := range parts {
		list[i] = types.CompletedPart{PartNumber: &p.Number, ETag: &p.ETag}
	}
	out, err := u.bucket.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &u.bucket.name, Key: &u.Key, UploadId: &u.ID, MultipartUpload: &types.CompletedMultipartUpload{Parts: list},
	})
	if err != nil {
		return Ref{}, classify(ctx, err)
	}
	return Ref{u.Key, aws.ToString(out.ETag), aws.ToString(out.VersionId)}, nil
}

// Abort removes the parts. An upload that is not there, or no longer, is no error.
func (u Upload) Abort(ctx context.Context) error {
	_, err := u.bucket.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &u.bucket.name, Key: &u.Key, UploadId: &u.ID})
	if err = classify(ctx, err); errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// Begun is an upload that is neither complete nor aborted.
type Begun struct {
	Upload
	At time.Time
}

// Uploads returns up to 1,000 uploads whose keys begin with a prefix, after those of a page before.
func (b *Bucket) Uploads(ctx context.Context, prefix string, after Begun) (begun []Begun, more bool, err error) {
	in := &s3.ListMultipartUploadsInput{Bucket: &b.name, Prefix: &prefix}
	if after.Key != "" {
		in.KeyMarker, in.UploadIdMarker = &after.Key, &after.ID
	}
	out, err := b.client.ListMultipartUploads(ctx, in)
	if err != nil {
		return nil, false, classify(ctx, err)
	}
	for _, u := range out.Uploads {
		begun = append(begun, Begun{b.Upload(aws.ToString(u.Key), aws.ToString(u.UploadId)), aws.ToTime(u.Initiated)})
	}
	return begun, aws.ToBool(out.IsTruncated), nil
}
