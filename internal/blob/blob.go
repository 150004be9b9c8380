// Package blob provides access to the S3 bucket that holds the bytes of files.
package blob

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
)

// Config describes the bucket. Without Endpoint it is at AWS; without keys the SDK's own chain finds them (a profile, a
// role).
type Config struct {
	Endpoint        string
	Bucket          string
	ForcePathStyle  bool
	Region          string
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
}

// Bucket is the bucket of the service. It is safe for concurrent use.
type Bucket struct {
	client *s3.Client
	name   string
}

// Open returns a client of the bucket. It connects when it is first used.
func Open(ctx context.Context, c Config) (*Bucket, error) {
	// The SDK's own warnings go past the service's log; its errors come back to the caller anyway.
	options := []func(*awsconfig.LoadOptions) error{awsconfig.WithRegion(c.Region), awsconfig.WithLogger(logging.Nop{})}
	if c.AccessKeyID != "" {
		options = append(options, awsconfig.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, err
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
		o.UsePathStyle = c.ForcePathStyle
	})
	return &Bucket{client: client, name: c.Bucket}, nil
}

// Ping returns an error if the bucket does not exist or may not be used.
func (b *Bucket) Ping(ctx context.Context) error {
	_, err := b.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.name})
	return err
}
