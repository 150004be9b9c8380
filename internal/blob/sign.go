package blob

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// MaxSigned is the longest that a signed request can be valid.
const MaxSigned = 7 * 24 * time.Hour

// Signed is a request to the bucket that whoever has it can send without a key, at the public endpoint, until it expires.
type Signed struct {
	Method, URL string
	Headers     map[string]string // that it must have, but for Host and Content-Length, which every client sends by itself
}

// Sending is what a signed request stores: no other bytes are accepted.
type Sending struct {
	Size        int64
	ContentType string
	Checksum    []byte // SHA-256
}

// SignPut signs a request that stores an object, once: where the bucket has conditional writes, a second one is refused. Signing
// asks nobody.
func (b *Bucket) SignPut(ctx context.Context, key string, s Sending, valid time.Duration) (Signed, error) {
	in := &s3.PutObjectInput{
		Bucket: &b.name, Key: &key, ContentLength: &s.Size, ContentType: &s.ContentType,
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(s.Checksum)),
	}
	if b.conditional {
		in.IfNoneMatch = aws.String("*")
	}
	out, err := b.signer.PresignPutObject(ctx, in, validFor(valid), func(o *s3.PresignOptions) {
		o.Presigner = described{o.Presigner, s}
	})
	return signed(ctx, out, err)
}

// SignPart signs a request that stores a part of size bytes.
func (u Upload) SignPart(ctx context.Context, number int32, size int64, valid time.Duration) (Signed, error) {
	out, err := u.bucket.signer.PresignUploadPart(ctx, &s3.UploadPartInput{
		Bucket: &u.bucket.name, Key: &u.Key, UploadId: &u.ID, PartNumber: &number, ContentLength: &size,
	}, validFor(valid))
	return signed(ctx, out, err)
}

// SignGet signs a request for an object, whose reply has this type and disposition.
func (b *Bucket) SignGet(ctx context.Context, from Ref, contentType, disposition string, valid time.Duration) (Signed, error) {
	in := &s3.GetObjectInput{
		Bucket: &b.name, Key: &from.Key, ResponseContentType: &contentType, ResponseContentDisposition: &disposition,
		ResponseCacheControl: aws.String("private, no-cache, no-transform"),
	}
	if from.Version != "" {
		in.VersionId = &from.Version
	}
	out, err := b.signer.PresignGetObject(ctx, in, validFor(valid))
	return signed(ctx, out, err)
}

// validFor rounds up to whole seconds, which is what a signature has: 0 would be the SDK's own default.
func validFor(d time.Duration) func(*s3.PresignOptions) {
	return func(o *s3.PresignOptions) {
		o.Expires = min(max(d+time.Second-1, time.Second), MaxSigned).Truncate(time.Second)
	}
}

func signed(ctx context.Context, out *v4.PresignedHTTPRequest, err error) (Signed, error) {
	if err != nil {
		return Signed{}, classify(ctx, err) // There are no keys, or they have expired.
	}
	s := Signed{Method: out.Method, URL: out.URL, Headers: map[string]string{}}
	for name := range out.SignedHeader {
		switch textproto.CanonicalMIMEHeaderKey(name) {
		case "Host", "Content-Length":
		default:
			s.Headers[name] = out.SignedHeader.Get(name)
		}
	}
	return s, nil
}

// described signs the type and the length of a body also where there are no bytes, for which the SDK leaves them out.
type described struct {
	s3.HTTPPresignerV4
	Sending
}

func (d described) PresignHTTP(
	ctx context.Context, keys aws.Credentials, r *http.Request, digest, service, region string, at time.Time, options ...func(*v4.SignerOptions),
) (string, http.Header, error) {
	r.Header.Set("Content-Type", d.ContentType)
	text, headers, err := d.HTTPPresignerV4.PresignHTTP(ctx, keys, r, digest, service, region, at, options...)
	if err != nil || d.Size > 0 {
		return text, headers, err
	}
	headers["content-length"] = []string{"0"}
	text, err = resign(r.Method, text, headers, digest, keys.SecretAccessKey)
	return text, headers, err
}

// resign signs a signed request again, with these headers; see Authenticating Requests: Using Query Parameters (AWS Signature Version 4)
// in the API reference of S3.
func resign(method, signedURL string, headers http.Header, digest, secret string) (string, error) {
	u, err := url.Parse(signedURL)
	if err != nil {
		return "", err
	}
	lines, names := map[string]string{}, []string(nil)
	for name, values := range headers {
		name = strings.ToLower(name)
		names = append(names, name)
		lines[name] = name + ":" + strings.Join(values, ",") + "\n"
	}
	slices.Sort(names)
	query := u.Query()
	query.Del("X-Amz-Signature")
	query.Set("X-Amz-SignedHeaders", strings.Join(names, ";"))
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	var request strings.Builder
	fmt.Fprintf(&request, "%s\n%s\n%s\n", method, u.EscapedPath(), u.RawQuery)
	for _, name := range names {
		request.WriteString(lines[name])
	}
	fmt.Fprintf(&request, "\n%s\n%s", strings.Join(names, ";"), digest)
	_, scope, _ := strings.Cut(query.Get("X-Amz-Credential"), "/")
	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = sign(key, part)
	}
	hashed := sha256.Sum256([]byte(request.String()))
	text := strings.Join([]string{query.Get("X-Amz-Algorithm"), query.Get("X-Amz-Date"), scope, hex.EncodeToString(hashed[:])}, "\n")
	u.RawQuery += "&X-Amz-Signature=" + hex.EncodeToString(sign(key, text))
	return u.String(), nil
}

func sign(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
