package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. A healthy machine never needs that long.
const patience = 30 * time.Second

// process is a running binary.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *transcript   // standard output and standard error
	done chan struct{} // closed when the process has ended
}

// ours matches the variables that the binaries read. They must not get those of the test's own environment.
var ours = regexp.MustCompile(`^(ADMIN_ADDR|AUTH|CORS|DATABASE|REDIS|AMQP|BROKER|CACHE|S3|AWS|FILE|HTTP|RATE|TLS|LOCK|LOG|MESSAGE|SHUTDOWN|WORKER|DATA_DIR|OTEL)`)

// command returns a command that runs a binary with env as its whole configuration.
func command(t testing.TB, name string, env map[string]string, args ...string) *exec.Cmd {
	t.Helper()
	return configured(exec.Command(binary(t, name), args...), env)
}

func configured(cmd *exec.Cmd, env map[string]string) *exec.Cmd {
	cmd.Env = slices.DeleteFunc(os.Environ(), ours.MatchString)
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if coverDir() != "" {
		cmd.Env = append(cmd.Env, "GOCOVERDIR="+coverDir())
	}
	return cmd
}

// start starts a binary.
func start(t testing.TB, name string, env map[string]string) *process {
	t.Helper()
	return launch(t, name, command(t, name, env))
}

// launch starts a command, and kills what is left of it when the test ends. If the test has failed, it shows the log.
func launch(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, log: newTranscript(), done: make(chan struct{})}
	remember(p.log)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.WaitDelay = time.Second // A child that was left behind may hold the pipe.
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // The outcome is in ProcessState.
		p.log.close()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the log of %s, process %d:\n%s", name, p.cmd.Process.Pid, p.log.tail())
		}
	})
	return p
}

// kill ends the process at once, as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// exit waits until the process has ended, and returns its exit status, -1 after a signal.
func (p *process) exit(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("%s does not end within %s", p.name, within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the process as a supervisor does, and checks that it ends well.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if status := p.exit(t, patience); status != 0 {
		t.Errorf("%s ends with status %d after SIGTERM", p.name, status)
	}
}

// says waits for a line of the log, and returns what the first group of the pattern matched.
func (p *process) says(t testing.TB, pattern string) string {
	t.Helper()
	match, err := p.log.await(regexp.MustCompile(pattern))
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	return match
}

// address returns the address that a server listens on.
func (p *process) address(t testing.TB) string {
	t.Helper()
	return p.says(t, `listening.*"address":\s?"([^"]+)"`)
}

// admin returns the URL of the address for people on call.
func (p *process) admin(t testing.TB) string {
	t.Helper()
	return "http://" + p.says(t, `serving metrics.*"address":\s?"([^"]+)"`)
}

// transcript holds the output of a process, line by line.
type transcript struct {
	mu      sync.Mutex
	lines   []string
	rest    []byte
	ended   bool
	changed chan struct{} // closed at every change
}

func newTranscript() *transcript { return &transcript{changed: make(chan struct{})} }

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			break
		}
		l.lines, l.rest = append(l.lines, string(line)), rest
	}
	l.notify()
	return len(p), nil
}

func (l *transcript) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.notify()
}

// notify wakes those that wait; the caller holds the lock.
func (l *transcript) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// from returns the lines from the nth on, and a channel that is closed when there are more; nil if there will be none.
func (l *transcript) from(n int) ([]string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return l.lines[n:], nil
	}
	return l.lines[n:], l.changed
}

// await waits for a line, which may be an earlier one. It returns what the first group of the pattern matched in it, or the
// whole match if there is no group.
func (l *transcript) await(pattern *regexp.Regexp) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for seen := 0; ; {
		lines, changed := l.from(seen)
		seen += len(lines)
		for _, line := range lines {
			if match := pattern.FindStringSubmatch(line); match != nil {
				return match[min(1, len(match)-1)], nil
			}
		}
		if changed == nil {
			return "", fmt.Errorf("the process ended without a line that matches %s", pattern)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("no line matches %s", pattern)
		}
	}
}

func (l *transcript) tail() string {
	lines, _ := l.from(0)
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	within(t, patience, what, holds)
}

// within polls until the condition holds.
func within(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// with returns a copy of env with more in it.
func with(env map[string]string, more map[string]string) map[string]string {
	env = maps.Clone(env)
	maps.Copy(env, more)
	return env
}
