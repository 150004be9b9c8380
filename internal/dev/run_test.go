package dev

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	ossignal "os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// running starts the program on a DATA_DIR with a private PostgreSQL, and returns the processes below it.
func running(t *testing.T, role, dir string) (*program, []int) {
	t.Helper()
	p := startProgram(t, role, machine(map[string]string{"DATA_DIR": dir, "S3_ENDPOINT": nowhere}))
	p.says(t, "serving")
	family := descendants(t, p.cmd.Process.Pid)
	if len(family) < 5 { // the postmaster and its own processes
		t.Fatalf("only processes %v run below the program", family)
	}
	return p, family
}

func connect(t *testing.T, dir string) *pgx.Conn {
	t.Helper()
	address, err := os.ReadFile(filepath.Join(dir, "postgres.url"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), strings.TrimSpace(string(address)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func TestSignalEndsEverything(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			if ossignal.Ignored(signal) { // As under nohup: dev ignores it as well, as it should.
				t.Skipf("this process ignores %v, and so would its children", signal)
			}
			dir := seededDir(t)
			p, family := running(t, "dev", dir)
			ours, err := syscall.Getpgid(p.cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range family {
				if group, err := syscall.Getpgid(pid); err == nil && group == ours {
					t.Errorf("a terminal's Ctrl-C would reach process %d", pid)
				}
			}
			asked := time.Now()
			p.signal(t, signal)
			status := p.wait(t)
			if took := time.Since(asked); status != 0 || took > 2*time.Second {
				t.Errorf("exit status %d after %s: %s", status, took, p.stderr.String())
			}
			requireGone(t, 0, family)
			log, err := os.ReadFile(filepath.Join(dir, "postgres.log"))
			if err != nil {
				t.Fatal(err)
			}
			contains(t, string(log), "received fast shutdown request")
		})
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p, family := running(t, "stubborn", seededDir(t))
	p.signal(t, syscall.SIGINT)
	p.says(t, "draining")
	done := make(chan int)
	go func() { done <- p.wait(t) }()
	limit := time.After(patience)
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-limit:
			t.Fatal("it does not end")
		case <-time.After(20 * time.Millisecond):
			_ = p.cmd.Process.Signal(syscall.SIGINT)
		}
	}
	if runtime.GOOS == "linux" {
		requireGone(t, 2*time.Second, family)
	}
}

func TestKillLeavesNothingAndLosesNothing(t *testing.T) {
	t.Parallel()
	dir := seededDir(t)
	p, family := running(t, "dev", dir)
	conn := connect(t, dir)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 42 AS answer"); err != nil {
		t.Fatal(err)
	}
	busy := connect(t, dir) // a backend that is busy does not check whether its postmaster lives
	ended := make(chan error)
	go func() {
		_, err := busy.Exec(context.WithoutCancel(t.Context()), "SELECT count(*) FROM generate_series(1, 1000000000000)")
		ended <- err
	}()
	eventually(t, "the busy query runs", patience, func() bool {
		var active int
		row := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series(1%' AND pid = $1",
			busy.PgConn().PID())
		return row.Scan(&active) == nil && active == 1
	})
	family = append(family, descendants(t, p.cmd.Process.Pid)...)
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
	if runtime.GOOS == "linux" {
		requireGone(t, 4*time.Second, family)
		if err := <-ended; err == nil {
			t.Error("the endless query ended well")
		}
	}

	p, _ = running(t, "dev", dir)
	var answer int
	if err := connect(t, dir).QueryRow(t.Context(), "SELECT answer FROM kept").Scan(&answer); err != nil || answer != 42 {
		t.Errorf("after the kill: %d, %v", answer, err)
	}
	p.signal(t, syscall.SIGTERM)
	if status := p.wait(t); status != 0 {
		t.Errorf("exit status %d: %s", status, p.stderr.String())
	}
}

func TestKilledGoRun(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			executable := filepath.Join(t.TempDir(), "go-build123", "b001", "exe", "dev")
			copyFile(t, os.Args[0], executable)
			dir := seededDir(t)
			env := machine(map[string]string{"DATA_DIR": dir, "S3_ENDPOINT": nowhere})
			p := startProgram(t, "go run", env, os.Args[0], executable)
			p.says(t, "serving")
			family := descendants(t, p.cmd.Process.Pid)
			p.signal(t, signal)
			requireGone(t, 2*time.Second, family)
			p.says(t, "draining")
			p.wait(t)
		})
	}
}

func TestMadeByGoRun(t *testing.T) {
	t.Parallel()
	for executable, want := range map[string]bool{
		"/tmp/go-build1310425640/b001/exe/dev": true,
		"/home/ann/.cache/go-build/ad/adf6030e8c347edd925094010807acdaf6b323d2cab05f57dfed643b2d2c8b8e-d/dev": true,
		"/home/ann/src/go-builder/bin/dev": false,
		"/usr/local/bin/dev":               false,
	} {
		if got := madeByGoRun(executable); got != want {
			t.Errorf("%s: %t", executable, got)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresThatEndsByItselfEndsAll(t *testing.T) {
	t.Parallel()
	dir := seededDir(t)
	p, family := running(t, "dev", dir)
	pidFile, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(pidFile), "\n")
	postmaster, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(postmaster, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(t); status != 1 {
		t.Errorf("exit status %d", status)
	}
	contains(t, p.stderr.String(), "the private PostgreSQL ended by itself")
	requireGone(t, 2*time.Second, family)
}

func TestOneProcessForAFolder(t *testing.T) {
	t.Parallel()
	dir := seededDir(t)
	p, family := running(t, "dev", dir)
	env := machine(map[string]string{"DATA_DIR": dir, "S3_ENDPOINT": nowhere})
	_, err := Start(t.Context(), env, t.Output())
	oneLine(t, err, dir, fmt.Sprintf("pid %d", p.cmd.Process.Pid), "set DATA_DIR")
	_, err = StartPostgres(t.Context(), dir, env, t.Output())
	oneLine(t, err, dir, fmt.Sprintf("pid %d", p.cmd.Process.Pid), "set DATA_DIR")
	if runtime.GOOS == "linux" {
		for _, pid := range family {
			links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			for _, link := range links {
				if target, _ := os.Readlink(link); target == filepath.Join(dir, "lock") {
					t.Errorf("process %d inherited the lock", pid)
				}
			}
		}
	}
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
	b, err := Start(t.Context(), env, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	addr := listener.Addr().String()
	dir := filepath.Join(t.TempDir(), "data")
	err = Run(machine(map[string]string{"HTTP_ADDR": addr, "DATA_DIR": dir}), t.Output(), serve)
	oneLine(t, err, addr+" is taken by another process: stop it, or set HTTP_ADDR to another address")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("something was started: %v", err)
	}
	err = Run(machine(map[string]string{"HTTP_ADDR": "nonsense", "DATA_DIR": dir}), t.Output(), serve)
	oneLine(t, err, "HTTP_ADDR=nonsense")
}

// With port 0 the banner shows the address that the service listens on.
func TestBannerShowsTheChosenPort(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", ""} {
		var banner bytes.Buffer
		var addr string
		err := Run(machine(map[string]string{
			"HTTP_ADDR": host + ":0", "DATA_DIR": filepath.Join(t.TempDir(), "data"),
			"DATABASE_URL": "postgres://u@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1", "S3_ENDPOINT": nowhere,
		}), &banner, func(_ context.Context, env map[string]string) error {
			addr = env["HTTP_ADDR"]
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if name, port, err := net.SplitHostPort(addr); err != nil || name != host || port == "0" {
			t.Errorf("the service got HTTP_ADDR=%s", addr)
		}
		contains(t, banner.String(), "http://"+reachable(addr)+";", reachable(addr)+"/health")
	}
}
