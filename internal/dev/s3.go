package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// s3 is a private S3 server: versitygw, a child process. It is built first if it does not exist.
type s3 struct {
	dir       string // DATA_DIR
	env       map[string]string
	region    string
	bucket    string
	port      reservedPort
	accessKey string
	secretKey string
	out       io.Writer
	cancel    context.CancelFunc
	done      chan struct{}
}

// startS3 determines address, key and bucket, and returns before the server runs, because the first start of all has to build it.
func startS3(dir string, env map[string]string, bucket, region string, out io.Writer) (*s3, error) {
	accessKey, secretKey, err := s3Credentials(filepath.Join(dir, "s3.credentials"))
	if err != nil {
		return nil, err
	}
	// To versitygw a bucket is a folder.
	if err := os.MkdirAll(filepath.Join(dir, "s3", bucket), 0o700); err != nil {
		return nil, err
	}
	port, err := reservePort()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &s3{
		dir: dir, env: env, region: region, bucket: bucket, port: port, accessKey: accessKey, secretKey: secretKey,
		out: out, cancel: cancel, done: make(chan struct{}),
	}
	go s.run(ctx)
	return s, nil
}

func (s *s3) address() string  { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port.number)) }
func (s *s3) endpoint() string { return "http://" + s.address() }

// close stops the server, or its build, within a second.
func (s *s3) close() {
	s.cancel()
	<-s.done
}

func (s *s3) run(ctx context.Context) {
	defer close(s.done)
	bin, err := S3Program(ctx, s.env, s.out)
	s.port.release()
	if err == nil {
		err = s.serve(ctx, bin)
	}
	if ctx.Err() == nil {
		fmt.Fprintf(s.out, "S3 is off: %v\n", err)
	}
}

// serve runs the server until ctx ends or the server does.
func (s *s3) serve(ctx context.Context, bin string) error {
	log, err := openLog(filepath.Join(s.dir, "s3.log"))
	if err != nil {
		return explain(s.dir, err)
	}
	defer func() { _ = log.Close() }()
	data := filepath.Join(s.dir, "s3")
	args := []string{"--port", s.address(), "--region", s.region, "--quiet", "posix"}
	if sidecar := filepath.Join(s.dir, "s3.meta"); !keepsAttributes(data) {
		if err := os.MkdirAll(sidecar, 0o700); err != nil {
			return explain(s.dir, err)
		}
		args = append(args, "--sidecar", sidecar)
	}
	cmd, untie, err := tied(bin, append(args, data)...)
	if err != nil {
		return err
	}
	defer untie()
	// versitygw also reads options from its environment, so that contains only the key, which must not be in the arguments.
	cmd.Env = []string{"ROOT_ACCESS_KEY=" + s.accessKey, "ROOT_SECRET_KEY=" + s.secretKey}
	cmd.Stdout, cmd.Stderr = log, log
	server, err := startChild(cmd, syscall.SIGKILL)
	if err != nil {
		return fmt.Errorf("run versitygw: %w", err)
	}
	fmt.Fprintf(s.out, "S3 starts on %s\n", s.endpoint())
	answering, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asking.Go(func() { s.allowPages(answering) })
	select {
	case <-ctx.Done():
		server.stop(step{syscall.SIGTERM, 900 * time.Millisecond})
		return nil
	case <-server.done:
		return fmt.Errorf("versitygw ended (%w), see %s: start again", server.err, log.Name())
	}
}

// keepsAttributes reports whether the file system of a folder has extended attributes, where versitygw keeps metadata.
func keepsAttributes(dir string) bool {
	return unix.Setxattr(dir, "user.plinth", []byte("1"), 0) == nil
}

// s3Credentials reads the key of the private S3, or creates one.
func s3Credentials(path string) (accessKey, secretKey string, err error) {
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	if words := strings.Fields(string(raw)); len(words) == 2 {
		return words[0], words[1], nil
	}
	accessKey, secretKey = rand.Text(), rand.Text()
	return accessKey, secretKey, writeSecret(path, accessKey+"\n"+secretKey+"\n")
}
