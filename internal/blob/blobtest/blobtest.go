// Package blobtest starts private S3 servers for tests: versitygw on a folder of its own, and a proxy before it that fails as
// servers do.
//
// The server is that of tools/go.mod, which is built once for the user, within two minutes.
package blobtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/caarlos0/env/v11"

	"plinth/internal/blob"
	"plinth/internal/dev"
	"plinth/internal/porttest"
)

const (
	bucketName = "plinth"
	region     = "us-east-1"
	accessKey  = "blobtest"
	secretKey  = "blobtest-secret"
	startLimit = 30 * time.Second
	pollEvery  = 10 * time.Millisecond
	backoff    = 10 * time.Millisecond
)

// Server is a versitygw.
type Server struct {
	Endpoint string // http://127.0.0.1:port
	Dir      string // where it keeps objects, in a folder for each bucket

	addr   string
	args   []string
	cmd    *exec.Cmd
	bucket string
}

// New starts a server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := start(t, t.TempDir(), t.TempDir())
	t.Cleanup(s.Kill)
	return s
}

// shared is the server of the tests that share one, while there are any. A global is the only way to pass it to them.
var shared struct {
	sync.Mutex
	server         *Server
	dir            string
	users, buckets int
}

// Share returns a server with a bucket for this test alone. The server is that of other tests of the process as well, so it is not to be
// killed.
func Share(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.users == 0 {
		dir, err := os.MkdirTemp("", "plinth-blobtest-")
		if err != nil {
			t.Fatal(err)
		}
		objects, meta := filepath.Join(dir, "objects"), filepath.Join(dir, "meta")
		for _, folder := range []string{objects, meta} {
			if err := os.Mkdir(folder, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		shared.dir, shared.server = dir, start(t, objects, meta)
	}
	shared.users++
	t.Cleanup(leave)
	shared.buckets++
	s := *shared.server
	s.bucket = fmt.Sprintf("%s-%d", bucketName, shared.buckets)
	if err := os.Mkdir(filepath.Join(s.Dir, s.bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	return &s
}

// leave ends the server with the last of its tests.
func leave() {
	shared.Lock()
	defer shared.Unlock()
	if shared.users--; shared.users == 0 {
		shared.server.Kill()
		_ = os.RemoveAll(shared.dir)
	}
}

// NewVersioned starts a server whose bucket keeps versions.
func NewVersioned(t testing.TB) *Server {
	t.Helper()
	s := start(t, t.TempDir(), t.TempDir(), "--versioning-dir", t.TempDir())
	t.Cleanup(s.Kill)
	_, err := s.client().PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: aws.String(bucketName), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t testing.TB, dir, meta string, more ...string) *Server {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, bucketName), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: dir, addr: "127.0.0.1:" + porttest.Free(t), bucket: bucketName}
	s.Endpoint = "http://" + s.addr
	s.args = append(append([]string{"--port", s.addr, "--region", region, "--quiet", "posix", "--sidecar", meta}, more...), dir)
	s.Start(t)
	return s
}

// Start starts the server again after Kill, on the same address and folder.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(binary(t), s.args...)
	s.cmd.Env = []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bucket := s.Open(t, s.Endpoint)
	for end := time.Now().Add(startLimit); ; <-time.After(pollEvery) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := bucket.Ping(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the S3 server does not answer: %v", err)
		}
	}
}

// Kill ends the server as a crash would.
func (s *Server) Kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// Open returns a client of the server's bucket by way of an endpoint.
func (s *Server) Open(t testing.TB, endpoint string) *blob.Bucket {
	t.Helper()
	c := s.Config()
	c.Endpoint = endpoint
	b, err := blob.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Config is that of the server's bucket.
func (s *Server) Config() blob.Config {
	return blob.Config{
		Endpoint: s.Endpoint, Bucket: s.bucket, ForcePathStyle: true, Conditional: true, Region: region,
		AccessKeyID: accessKey, SecretAccessKey: secretKey, MaxBackoff: backoff,
	}
}

// Env is the environment of a service on the server's bucket.
func (s *Server) Env() map[string]string {
	return map[string]string{
		"S3_ENDPOINT": s.Endpoint, "S3_BUCKET": s.bucket, "S3_FORCE_PATH_STYLE": "true", "AWS_REGION": region,
		"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey,
	}
}

// binary returns the path of the server's program.
func binary(t testing.TB) string {
	t.Helper()
	path, err := dev.S3Program(context.Background(), env.ToMap(os.Environ()), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Versions are the keys of all versions in the bucket, delete markers among them.
func (s *Server) Versions(t testing.TB) (keys []string) {
	t.Helper()
	out, err := s.client().ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &s.bucket})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range out.Versions {
		keys = append(keys, aws.ToString(v.Key))
	}
	for _, m := range out.DeleteMarkers {
		keys = append(keys, aws.ToString(m.Key)+" (delete marker)")
	}
	return keys
}

// client returns a client that does what a service does not.
func (s *Server) client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &s.Endpoint, Region: region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})
}
