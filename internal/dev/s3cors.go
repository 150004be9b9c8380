package dev

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"plinth/internal/loop"
)

// corsRetry is how often the bucket is asked until the server answers.
const corsRetry = 100 * time.Millisecond

// allowPages lets pages of any origin use the bucket, as soon as the server answers: a signed URL is all the right that there is,
// and it is the page that has it.
func (s *s3) allowPages(ctx context.Context) {
	client := awss3.New(awss3.Options{
		BaseEndpoint: aws.String(s.endpoint()), Region: s.region, UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(s.accessKey, s.secretKey, ""),
	})
	var err error
	for range 100 {
		_, err = client.PutBucketCors(ctx, &awss3.PutBucketCorsInput{
			Bucket: &s.bucket, CORSConfiguration: &types.CORSConfiguration{CORSRules: []types.CORSRule{{
				AllowedOrigins: []string{"*"}, AllowedHeaders: []string{"*"}, ExposeHeaders: []string{"ETag"},
				AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPut}, MaxAgeSeconds: aws.Int32(3600),
			}}},
		})
		if err == nil || !loop.Sleep(ctx, corsRetry) {
			return
		}
	}
	fmt.Fprintf(s.out, "pages cannot use the URLs of the S3 server: %v\n", err)
}
