// Package blob provides access to the S3 bucket that holds the bytes of files.
//
// Bytes go straight through: a body of known length is sent as it is read, signed without its digest, so that nothing is
// held in memory and nothing is read twice. No trailing checksums are sent, which many servers refuse.
//
// The errors of the bucket are classified here and nowhere else:
//
//   - It cannot be reached, breaks off, stalls, or answers that it is busy (5xx, SlowDown): errs.Unavailable.
//   - It answers, and refuses what the service asks until somebody mends the cause (keys, rights, a bucket that does not
//     exist): errs.Unavailable, too, with a reason of its own in the log.
//   - There is no such object or upload: errs.NotFound. A condition of the request does not hold: errs.FailedPrecondition.
//   - An object that is read is not the one that was stored: errs.DataLoss.
//   - Errors of a body that is sent, and the context's own, are returned unchanged.
//
// Messages of errors say nothing of buckets, keys and servers, since callers see them.
package blob

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"plinth/internal/loop"
)

const (
	// answerLimit is how long the bucket may take to begin its answer. Copies and completed uploads take it some time.
	answerLimit = 60 * time.Second
	// stallLimit is how long the bucket may take no byte of a body, or send none.
	stallLimit = 30 * time.Second
	// socketBuffer is what a connection reads and writes at a time.
	socketBuffer = 128 << 10
	maxIdleConns = 64
	// A request that failed is made again after minBackoff and longer, but never longer than maxBackoff.
	minBackoff = 500 * time.Millisecond
	maxBackoff = time.Second
)

// Config describes the bucket. Without Endpoint it is at AWS; without keys the SDK's own chain finds them (a profile, a
// role).
type Config struct {
	Endpoint        string
	PublicEndpoint  string // that signed requests are for; empty is Endpoint
	Bucket          string
	ForcePathStyle  bool
	Conditional     bool // it knows If-None-Match in a PUT
	Region          string
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	MaxBackoff      time.Duration // before a request that failed is made again; 0 is a second
}

// Bucket is the bucket of the service. It is safe for concurrent use.
type Bucket struct {
	client      *s3.Client
	signer      *s3.PresignClient // of requests that others send
	conditional bool              // signed writes are of objects that are not there yet
	name        string
	maxBackoff  time.Duration
}

// Open returns a client of the bucket. It connects when it is first used.
func Open(ctx context.Context, c Config) (*Bucket, error) {
	longest := cmp.Or(c.MaxBackoff, maxBackoff)
	retryer := func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = maxFaults
			o.Backoff = retry.BackoffDelayerFunc(func(n int, _ error) (time.Duration, error) { return loop.Delay(n, minBackoff, longest), nil })
		})
	}
	// The SDK's own warnings go past the service's log; its errors come back to the caller anyway.
	options := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithRegion(c.Region), awsconfig.WithLogger(logging.Nop{}), awsconfig.WithHTTPClient(transport()), awsconfig.WithRetryer(retryer),
		awsconfig.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		awsconfig.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if c.AccessKeyID != "" {
		options = append(options, awsconfig.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, err
	}
	at := func(endpoint string) *s3.Client {
		return s3.NewFromConfig(cfg, func(o *s3.Options) {
			if endpoint != "" {
				o.BaseEndpoint = &endpoint
			}
			o.UsePathStyle = c.ForcePathStyle
			o.APIOptions = append(o.APIOptions, observed)
		})
	}
	public := cmp.Or(c.PublicEndpoint, c.Endpoint)
	return &Bucket{
		client: at(c.Endpoint), signer: s3.NewPresignClient(at(public)), conditional: c.Conditional, name: c.Bucket, maxBackoff: longest,
	}, nil
}

// transport returns the HTTP client of the bucket. It never asks for compressed bodies.
func transport() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.ResponseHeaderTimeout = answerLimit
		t.WriteBufferSize, t.ReadBufferSize = socketBuffer, socketBuffer
		t.MaxIdleConns, t.MaxIdleConnsPerHost = maxIdleConns, maxIdleConns
		t.DisableCompression = true
	})
}

// Ping returns an error if the bucket does not exist or may not be used.
func (b *Bucket) Ping(ctx context.Context) error {
	_, err := b.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.name})
	return err
}

// unsigned leaves the digest of the body out of the signature: it is not known before the body was read. TLS is what
// protects the body on its way.
func unsigned(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
}

// once makes one attempt: the body cannot be read again.
func once(o *s3.Options) { o.Retryer = aws.NopRetryer{} }
