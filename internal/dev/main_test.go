package dev

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
)

const (
	roleVariable = "PLINTH_TEST_ROLE" // makes the test binary act as a program
	patience     = 30 * time.Second   // a healthy machine never needs that long
	nowhere      = "http://127.0.0.1:1"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		status := m.Run()
		if err := os.RemoveAll(template.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(status)
	case "dev", "stubborn":
		if err := Run(env.ToMap(os.Environ()), os.Stderr, serve); err != nil {
			fmt.Fprintln(os.Stderr, "failed:", err)
			os.Exit(1)
		}
	case "go run":
		runAsParent()
	}
}

// serve acts as the service. A stubborn one does not end when it is asked to.
func serve(ctx context.Context, env map[string]string) error {
	fmt.Println("serving")
	<-ctx.Done()
	fmt.Println("draining")
	if os.Getenv(roleVariable) == "stubborn" {
		select {}
	}
	return nil
}

// runAsParent acts as `go run`: it starts the program named by its argument and waits for it.
func runAsParent() {
	cmd := exec.Command(os.Args[1])
	cmd.Env = append(os.Environ(), roleVariable+"=dev")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	_ = cmd.Run()
}

// machine returns an environment that names no backend.
func machine(with map[string]string) map[string]string {
	all := env.ToMap(os.Environ())
	for _, name := range []string{"DATABASE_URL", "REDIS_URL", "AMQP_URL", "S3_ENDPOINT", "BROKER", "DATA_DIR"} {
		delete(all, name)
	}
	maps.Copy(all, with)
	return all
}

// dataDir returns a folder below one that only its owner can enter.
func dataDir(t *testing.T) string {
	t.Helper()
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(closed, "data")
}

// template is a folder with a cluster in it. It is created once, because initdb takes most of the time of a first start.
var template struct {
	once sync.Once
	dir  string
	err  error
}

// seededDir returns a dataDir with a cluster in it.
func seededDir(t *testing.T) string {
	t.Helper()
	template.once.Do(func() {
		if template.dir, template.err = os.MkdirTemp("", "plinth-dev-test-"); template.err != nil {
			return
		}
		var p *Postgres
		if p, template.err = StartPostgres(t.Context(), template.dir, machine(nil), t.Output()); template.err == nil {
			p.Close()
		}
	})
	if template.err != nil {
		t.Fatal(template.err)
	}
	dir := dataDir(t)
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	copied := exec.Command("cp", "-a", filepath.Join(template.dir, "postgres"), dir)
	if output, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("copy: %s", output)
	}
	return dir
}

// program is the test binary in one of its roles, as a process.
type program struct {
	cmd    *exec.Cmd
	pipe   io.Closer // of stdout
	stdout *bufio.Scanner
	stderr bytes.Buffer // to be read after wait
}

func startProgram(t *testing.T, role string, env map[string]string, command ...string) *program {
	t.Helper()
	if len(command) == 0 {
		command = []string{os.Args[0]}
	}
	p := &program{cmd: exec.Command(command[0], command[1:]...)}
	for name, value := range env {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	p.cmd.Env = append(p.cmd.Env, roleVariable+"="+role, "HTTP_ADDR=127.0.0.1:0")
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = time.Second
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.pipe, p.stdout = stdout, bufio.NewScanner(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// says waits for a line of the program's output.
func (p *program) says(t *testing.T, line string) {
	t.Helper()
	limit := time.AfterFunc(patience, func() { _ = p.pipe.Close() })
	defer limit.Stop()
	for p.stdout.Scan() {
		if p.stdout.Text() == line {
			return
		}
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	t.Fatalf("the program did not say %q: %s", line, p.stderr.String())
}

func (p *program) signal(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// wait returns the exit status, or -1 after a signal.
func (p *program) wait(t *testing.T) int {
	t.Helper()
	for p.stdout.Scan() { // a pipe has to be read to its end before Wait
	}
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// descendants returns the ids of all processes below root.
func descendants(t *testing.T, root int) []int {
	t.Helper()
	output, err := ps(t, "-A", "-o", "pid=,ppid=")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for line := range strings.Lines(string(output)) {
		var pid, parent int
		if _, err := fmt.Sscan(line, &pid, &parent); err != nil {
			t.Fatal(err)
		}
		children[parent] = append(children[parent], pid)
	}
	var found []int
	for next := []int{root}; len(next) > 0; next = next[1:] {
		found = append(found, children[next[0]]...)
		next = append(next, children[next[0]]...)
	}
	return found
}

// ps runs the program ps. If there is none, the test is skipped, or fails if CI is true.
func ps(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	output, err := exec.Command("ps", args...).Output()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip("ps is not installed (Debian, Ubuntu: apt-get install procps)")
	}
	return output, err
}

// alive reports whether a process runs; a zombie does not.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	output, err := ps(t, "-o", "stat=", "-p", strconv.Itoa(pid))
	return err == nil && !strings.HasPrefix(strings.TrimSpace(string(output)), "Z")
}

func requireGone(t *testing.T, within time.Duration, pids []int) {
	t.Helper()
	deadline := time.Now().Add(within)
	for _, pid := range pids {
		for alive(t, pid) {
			if time.Now().After(deadline) {
				output, _ := ps(t, "-f", "-p", strconv.Itoa(pid))
				t.Errorf("a process lives on: %s", output)
				_ = syscall.Kill(pid, syscall.SIGKILL)
				break
			}
			pause()
		}
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, within time.Duration, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); pause() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

func pause() { <-time.After(10 * time.Millisecond) }

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in: %s", part, text)
		}
	}
}

// oneLine checks that an error is one line that has all parts.
func oneLine(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, but one was to say %q", parts)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %s", err)
	}
	contains(t, err.Error(), parts...)
}

func mustStartPostgres(t *testing.T, dir string) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), dir, machine(nil), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}
