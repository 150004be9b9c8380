// Package kvtest starts private Redis servers for a test: one server, a Cluster, or a primary with a replica and Sentinels, each
// of them with TLS if wanted. They listen on 127.0.0.1, ask for Password, hold nothing on disk that outlives the test, and end
// with it.
//
// They are redis-server of the machine. Where there is none the test is skipped, or fails if CI is true.
package kvtest

import (
	"context"
	"crypto/tls"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"plinth/internal/porttest"
)

// Password is that of all servers. It has letters that a URL needs escaped, and a comma, which also parts hosts.
const Password = "p@ss/w:rd,1?"

const (
	startLimit = 30 * time.Second
	pollEvery  = 10 * time.Millisecond
)

// Server is a redis-server.
type Server struct {
	Addr string // host:port
	URL  string

	tls   *tls.Config
	dir   string
	args  []string // of redis-server, which is the first one
	stdin io.Closer
	shell *exec.Cmd
}

// New starts a server, with TLS unless authority is nil. More arguments are those of redis-server.
func New(t testing.TB, authority *Authority, args ...string) *Server {
	t.Helper()
	s := start(t, authority, "", append(args, "--requirepass", Password)...)
	s.URL = urlOf(authority, Password, s.Addr)
	s.wait(t, "answers", func(ctx context.Context, c *redis.Client) bool { return c.Ping(ctx).Err() == nil })
	return s
}

// urlOf returns the URL of servers side by side.
func urlOf(authority *Authority, password string, addrs ...string) string {
	u := url.URL{Scheme: "redis", Host: strings.Join(addrs, ",")}
	if authority != nil {
		u.Scheme = "rediss"
	}
	if password != "" {
		u.User = url.UserPassword("default", password)
	}
	return u.String()
}

// start starts redis-server, with the lines of a configuration file if there are any, and does not wait until it answers.
func start(t testing.TB, authority *Authority, config string, args ...string) *Server {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed; it comes with Debian's redis-server and Homebrew's redis")
	}
	port := porttest.Free(t)
	s := &Server{Addr: "127.0.0.1:" + port, dir: t.TempDir()}
	args = append(args, "--bind", "127.0.0.1", "--dir", s.dir, "--logfile", filepath.Join(s.dir, "log"), "--pidfile", s.pidFile(), "--save", "", "--appendonly", "no")
	if authority == nil {
		args = append(args, "--port", port)
	} else {
		s.tls = authority.client()
		args = append(args, "--port", "0", "--tls-port", port, "--tls-auth-clients", "no", "--tls-replication", "yes",
			"--tls-cert-file", authority.certFile, "--tls-key-file", authority.keyFile, "--tls-ca-cert-file", authority.File)
	}
	if config != "" {
		file := filepath.Join(s.dir, "conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{file}, args...)
	}
	s.args = append([]string{program}, args...)
	s.launch(t)
	t.Cleanup(s.Kill)
	return s
}

func (s *Server) launch(t testing.TB) {
	t.Helper()
	// The shell kills the server when its standard input ends: by Kill, or with this process, however it ends.
	s.shell = exec.Command("/bin/sh", append([]string{"-c", `"$0" "$@" & read -r _; kill -KILL $!; wait`}, s.args...)...)
	var err error
	if s.stdin, err = s.shell.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.shell.Start(); err != nil {
		t.Fatal(err)
	}
}

// Restart starts a server that was killed once more, at the same address. It has what it wrote to its folder, such as by SAVE.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.launch(t)
	s.wait(t, "answers again", func(ctx context.Context, c *redis.Client) bool { return c.Ping(ctx).Err() == nil })
}

// Pause has the server do nothing until Resume, with its connections open.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGSTOP)
}

// Resume ends a Pause.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGCONT)
}

func (s *Server) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	text, err := os.ReadFile(s.pidFile())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) pidFile() string { return filepath.Join(s.dir, "pid") }

// Kill ends the server at once.
func (s *Server) Kill() {
	if s.shell.ProcessState == nil {
		_ = s.stdin.Close()
		_ = s.shell.Wait() // Its status is that of a killed process.
	}
}

// wait waits until what holds of the server.
func (s *Server) wait(t testing.TB, what string, is func(context.Context, *redis.Client) bool) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.Addr, Password: Password, TLSConfig: s.tls, MaxRetries: -1, DialerRetries: 1})
	defer func() { _ = client.Close() }()
	eventually(t, what, func(ctx context.Context) bool { return is(ctx, client) }, s)
}

// eventually waits until something is. Else it shows the end of the servers' logs.
func eventually(t testing.TB, what string, is func(context.Context) bool, servers ...*Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	for !is(ctx) {
		select {
		case <-ctx.Done():
			for _, s := range servers {
				log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
				t.Logf("%s:\n%s", s.Addr, log[max(0, len(log)-2_000):])
			}
			t.Fatalf("Redis: not in time: %s", what)
		case <-time.After(pollEvery):
		}
	}
}
