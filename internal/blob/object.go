package blob

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"plinth/internal/errs"
)

// maxVersions bounds how many versions of one object are removed at once.
const maxVersions = 100

// Object describes an object.
type Object struct {
	Ref
	Size        int64
	ContentType string
	Encoding    string // Content-Encoding
	Checksum    string // SHA-256 of the whole in hex, where the bucket has checked it
	ModifiedAt  time.Time
}

// Head describes the object of a key. Errors: NotFound.
func (b *Bucket) Head(ctx context.Context, key string) (Object, error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: &key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return Object{}, classify(ctx, err)
	}
	return Object{
		Ref:  Ref{key, aws.ToString(out.ETag), aws.ToString(out.VersionId)},
		Size: aws.ToInt64(out.ContentLength), ContentType: aws.ToString(out.ContentType), Encoding: aws.ToString(out.ContentEncoding),
		Checksum: whole(out.ChecksumType, aws.ToString(out.ChecksumSHA256)), ModifiedAt: aws.ToTime(out.LastModified),
	}, nil
}

// whole returns a checksum in hex unless it is one of the checksums of parts, which say nothing of the bytes as a whole.
func whole(kind types.ChecksumType, checksum string) string {
	sum, err := base64.StdEncoding.DecodeString(checksum) // That of parts ends in "-" and their number.
	if err != nil || kind == types.ChecksumTypeComposite || len(sum) != sha256.Size {
		return ""
	}
	return hex.EncodeToString(sum)
}

// Remove removes whatever there is of a key: the object or, where the bucket keeps versions, each of them, so that no delete
// marker is left. A key without an object is no error.
func (b *Bucket) Remove(ctx context.Context, key string) error {
	for range maxVersions {
		o, err := b.Head(ctx, key)
		if errs.Is(err, errs.NotFound) {
			return nil
		}
		if err == nil {
			err = b.delete(ctx, o.Ref)
		}
		if err != nil {
			return err
		}
		if o.Version == "" {
			return nil
		}
	}
	return nil
}

// RemoveObject removes an object, or the version of it that was stored, without a look at what else there is of its key.
func (b *Bucket) RemoveObject(ctx context.Context, o Ref) error {
	if err := b.delete(ctx, o); !errs.Is(err, errs.NotFound) {
		return err
	}
	return nil
}

func (b *Bucket) delete(ctx context.Context, o Ref) error {
	in := &s3.DeleteObjectInput{Bucket: &b.name, Key: &o.Key}
	if o.Version != "" {
		in.VersionId = &o.Version
	}
	_, err := b.client.DeleteObject(ctx, in)
	return classify(ctx, err)
}

// List returns up to 1,000 objects whose keys begin with a prefix, in the order of their keys, after a key.
func (b *Bucket) List(ctx context.Context, prefix, after string) (objects []Object, more bool, err error) {
	in := &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix}
	if after != "" {
		in.StartAfter = &after
	}
	out, err := b.client.ListObjectsV2(ctx, in)
	if err != nil {
		return nil, false, classify(ctx, err)
	}
	for _, o := range out.Contents {
		objects = append(objects, Object{
			Ref: Ref{Key: aws.ToString(o.Key), ETag: aws.ToString(o.ETag)}, Size: aws.ToInt64(o.Size), ModifiedAt: aws.ToTime(o.LastModified),
		})
	}
	return objects, aws.ToBool(out.IsTruncated), nil
}

// Copy copies an object of up to MaxPut bytes to another key, within the bucket. Errors: DataLoss if the object is not there or not
// the one that was stored.
func (b *Bucket) Copy(ctx context.Context, from Ref, key string) (Ref, error) {
	out, err := b.client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: &b.name, Key: &key, CopySource: b.source(from), CopySourceIfMatch: &from.ETag,
	})
	if err != nil {
		return Ref{}, ofCopy(classify(ctx, err))
	}
	return Ref{key, aws.ToString(out.CopyObjectResult.ETag), aws.ToString(out.VersionId)}, nil
}

// ofCopy returns the error of a copy: that its source is not there is DataLoss.
func ofCopy(err error) error {
	if errs.Is(err, errs.NotFound) || errs.Is(err, errs.FailedPrecondition) {
		return lost(err)
	}
	return err
}

// source names an object in the header of a copy.
func (b *Bucket) source(from Ref) *string {
	name := b.name + "/" + strings.ReplaceAll(url.PathEscape(from.Key), "%2F", "/")
	if from.Version != "" {
		name += "?versionId=" + url.QueryEscape(from.Version)
	}
	return &name
}
