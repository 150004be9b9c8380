package dev

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
)

// s3Client is what a service makes of the environment.
func s3Client(env map[string]string) *awss3.Client {
	return awss3.New(awss3.Options{
		BaseEndpoint:     aws.String(env["S3_ENDPOINT"]),
		Region:           env["AWS_REGION"],
		UsePathStyle:     env["S3_FORCE_PATH_STYLE"] == "true",
		Credentials:      credentials.NewStaticCredentialsProvider(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], ""),
		RetryMaxAttempts: 1,
	})
}

func awaitS3(t *testing.T, b *Backends) *awss3.Client {
	t.Helper()
	env := b.Env()
	client := s3Client(env)
	eventually(t, "S3 answers", 5*time.Minute, func() bool {
		select {
		case <-b.s3.done:
			t.Fatal("S3 is off")
		default:
		}
		_, err := client.HeadBucket(t.Context(), &awss3.HeadBucketInput{Bucket: aws.String(env["S3_BUCKET"])})
		return err == nil
	})
	return client
}

func TestS3IsBuiltOnceAndKeepsItsObjects(t *testing.T) {
	if testing.Short() {
		t.Skip("the first build of the S3 server takes a minute")
	}
	t.Parallel()
	dir := dataDir(t)
	bin := filepath.Join(dir, "bin", "versitygw")
	copyFile(t, os.Args[0], bin) // a program of another version
	env := machine(map[string]string{"DATA_DIR": dir, "DATABASE_URL": "postgres://unused", "REDIS_URL": "redis://unused"})
	began := time.Now()
	b := mustStart(t, env)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the build held the start up for %s", took)
	}
	client := awaitS3(t, b)
	object := awss3.PutObjectInput{
		Bucket: aws.String("plinth"), Key: aws.String("a/b"), Body: strings.NewReader("hello"), ContentType: aws.String("text/x-test"),
	}
	if _, err := client.PutObject(t.Context(), &object); err != nil {
		t.Fatal(err)
	}
	wrong := b.Env()
	wrong["AWS_SECRET_ACCESS_KEY"] = "wrong"
	if _, err := s3Client(wrong).GetObject(t.Context(), &awss3.GetObjectInput{Bucket: object.Bucket, Key: object.Key}); err == nil {
		t.Error("a wrong key opens it")
	}
	built, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	closing := time.Now()
	b.Close()
	if took := time.Since(closing); took > time.Second {
		t.Errorf("closing took %s", took)
	}
	requireRefused(t, b.Env())

	b = mustStart(t, env)
	client = awaitS3(t, b)
	got, err := client.GetObject(t.Context(), &awss3.GetObjectInput{Bucket: object.Bucket, Key: object.Key})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil || string(body) != "hello" || *got.ContentType != "text/x-test" {
		t.Errorf("%q of %s, %v", body, *got.ContentType, err)
	}
	if now, err := os.Stat(bin); err != nil || !now.ModTime().Equal(built.ModTime()) {
		t.Errorf("it was built again: %v", err)
	}
}

func requireRefused(t *testing.T, env map[string]string) {
	t.Helper()
	_, err := s3Client(env).ListBuckets(context.WithoutCancel(t.Context()), &awss3.ListBucketsInput{})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("S3 answers after its end: %v", err)
	}
}

func TestBuildEndsWithUs(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			tools, dir := t.TempDir(), dataDir(t)
			script(t, filepath.Join(tools, "go"), "sleep 1000 & sleep 1000") // a go command and its compilers
			p := startProgram(t, "dev", machine(map[string]string{
				"DATA_DIR": dir, "DATABASE_URL": "postgres://unused", "PATH": tools + ":" + os.Getenv("PATH"),
			}))
			p.says(t, "serving")
			var family []int
			eventually(t, "the build runs", patience, func() bool {
				family = descendants(t, p.cmd.Process.Pid)
				return len(family) == 4 // the watching shell, go, two compilers
			})
			asked := time.Now()
			p.signal(t, signal)
			p.wait(t)
			if took := time.Since(asked); took > 2*time.Second {
				t.Errorf("it ended after %s", took)
			}
			requireGone(t, time.Second, family)
		})
	}
}

func TestBuildThatFailsLeavesTheRestUsable(t *testing.T) {
	t.Parallel()
	tools, dir := t.TempDir(), dataDir(t)
	script(t, filepath.Join(tools, "go"), "echo go: downloading x >&2; echo no network >&2; exit 1")
	var out bytes.Buffer // Start guards it, and is done with it when S3 is
	b, err := Start(t.Context(), machine(map[string]string{
		"DATA_DIR": dir, "DATABASE_URL": "postgres://unused", "PATH": tools + ":" + os.Getenv("PATH"),
	}), &out)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	<-b.s3.done
	contains(t, out.String(), "S3 is off: it cannot be built", "no network")
	requireRefused(t, b.Env())
}
