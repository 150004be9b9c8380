package dev

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
)

// s3Client returns a client as a service would configure it from the environment.
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
	eventually(t, "S3 answers", 9*time.Minute, func() bool {
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
	env := machine(map[string]string{"DATA_DIR": dataDir(t), "DATABASE_URL": "postgres://unused", "REDIS_URL": "redis://unused"})
	began := time.Now()
	b := mustStart(t, env)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the build held the start up for %s", took)
	}
	client := awaitS3(t, b)
	eventually(t, "pages of other origins may use it", patience, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, b.Env()["S3_ENDPOINT"]+"/plinth/a/b", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"Origin": "https://page.example.com", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type,if-none-match,x-amz-checksum-sha256",
		} {
			req.Header.Set(name, value)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == 200 && strings.Contains(res.Header.Get("Access-Control-Allow-Methods"), "PUT")
	})
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
	bin, err := S3Program(t.Context(), env, t.Output())
	if err != nil {
		t.Fatal(err)
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

// TestBuildOnce needs the program in several processes at once, which it stands for by calls: each opens the lock for itself.
func TestBuildOnce(t *testing.T) {
	t.Parallel()
	tools, cache := t.TempDir(), t.TempDir()
	script(t, filepath.Join(tools, "go"), `echo run >>"`+tools+`/runs"; sleep 0.5; echo built >"$4"`)
	env := machine(map[string]string{"XDG_CACHE_HOME": cache, "PATH": tools + ":" + os.Getenv("PATH")})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			bin, err := S3Program(t.Context(), env, t.Output())
			if err != nil {
				t.Error(err)
				return
			}
			if content, err := os.ReadFile(bin); string(content) != "built\n" {
				t.Errorf("%q, %v", content, err)
			}
		})
	}
	all.Wait()
	if runs, err := os.ReadFile(filepath.Join(tools, "runs")); string(runs) != "run\n" {
		t.Errorf("built more than once: %q, %v", runs, err)
	}
}

func TestBuildEndsWithUs(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			tools, dir := t.TempDir(), dataDir(t)
			script(t, filepath.Join(tools, "go"), "sleep 1000 & sleep 1000") // a go command and its compilers
			p := startProgram(t, "dev", machine(map[string]string{
				"DATA_DIR": dir, "XDG_CACHE_HOME": dir, "DATABASE_URL": "postgres://unused", "PATH": tools + ":" + os.Getenv("PATH"),
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
	var out bytes.Buffer // Start guards it, and no longer uses it once S3 is ready
	b, err := Start(t.Context(), machine(map[string]string{
		"DATA_DIR": dir, "XDG_CACHE_HOME": dir, "DATABASE_URL": "postgres://unused", "PATH": tools + ":" + os.Getenv("PATH"),
	}), &out)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	<-b.s3.done
	contains(t, out.String(), "S3 is off: it cannot be built", "no network")
	requireRefused(t, b.Env())
}
