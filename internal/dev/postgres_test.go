package dev

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func query(t *testing.T, p *Postgres, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	var answer string
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestPostgresKeepsItsData(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	p := mustStartPostgres(t, dir)
	query(t, p, "SELECT pg_catalog.lo_create(4711)::text")
	for setting, want := range map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"fsync":                   "on",
		"max_connections":         "400",
		"shared_buffers":          "128MB",
		"password_encryption":     "scram-sha-256",
		"server_encoding":         "UTF8",
	} {
		if got := query(t, p, "SELECT current_setting('"+setting+"')"); got != want {
			t.Errorf("%s is %q", setting, got)
		}
	}
	if who := query(t, p, "SELECT current_user || '@' || current_database()"); who != "plinth@plinth" {
		t.Error(who)
	}
	closing := time.Now()
	p.Close()
	if took := time.Since(closing); took > 1500*time.Millisecond {
		t.Errorf("closing took %s", took)
	}
	if p.child.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("the shutdown was not clean: %s", p.child.cmd.ProcessState)
	}
	p.Close() // closing again does no harm

	p = mustStartPostgres(t, dir)
	if n := query(t, p, "SELECT count(*)::text FROM pg_largeobject_metadata WHERE oid = 4711"); n != "1" {
		t.Errorf("%s large objects after the restart", n)
	}
	for _, name := range []string{"postgres.url", "postgres.log", "postgres/password"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestPostgresAsksForThePassword(t *testing.T) {
	t.Parallel()
	p := mustStartPostgres(t, seededDir(t))
	config, err := pgx.ParseConfig(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Password = "wrong"
	if _, err := pgx.ConnectConfig(t.Context(), config); err == nil || !strings.Contains(err.Error(), "28P01") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// TestInterruptedInit kills the process while a stand-in for initdb has made half of a data folder.
func TestInterruptedInit(t *testing.T) {
	t.Parallel()
	real, err := findBinaries(machine(nil), installFolders())
	if err != nil || real == "" {
		t.Fatalf("no PostgreSQL: %v", err)
	}
	bin, dir := t.TempDir(), dataDir(t)
	script(t, filepath.Join(bin, "initdb"), `data=${1#--pgdata=}; mkdir "$data"; echo half >"$data/PG_VERSION"; exec sleep 1000`)
	script(t, filepath.Join(bin, "postgres"), `exec `+real+`/postgres "$@"`)
	p := startProgram(t, "dev", machine(map[string]string{"DATA_DIR": dir, "S3_ENDPOINT": nowhere, "PG_BINDIR": bin}))
	pattern := filepath.Join(dir, "postgres.init-*", "data", "PG_VERSION")
	eventually(t, "initdb has begun", patience, func() bool {
		found, _ := filepath.Glob(pattern)
		return len(found) == 1
	})
	family := descendants(t, p.cmd.Process.Pid)
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
	if runtime.GOOS == "linux" {
		requireGone(t, 2*time.Second, family)
	}
	mustStartPostgres(t, dir)
	if left, _ := filepath.Glob(filepath.Join(dir, "postgres.init-*")); len(left) > 0 {
		t.Errorf("left over: %s", left)
	}
}

// TestCancelledStart ends the context in the middle of initdb.
func TestCancelledStart(t *testing.T) {
	t.Parallel()
	bin, dir := t.TempDir(), dataDir(t)
	script(t, filepath.Join(bin, "initdb"), `data=${1#--pgdata=}; mkdir "$data"; sleep 1000`)
	script(t, filepath.Join(bin, "postgres"), `exit 1`)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := StartPostgres(ctx, dir, map[string]string{"PG_BINDIR": bin, "PATH": os.Getenv("PATH")}, t.Output())
		ended <- err
	}()
	eventually(t, "initdb has begun", patience, func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "postgres.init-*", "data"))
		return len(found) == 1
	})
	cancel()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "postgres*")); len(left) > 0 {
		t.Errorf("left over: %s", left)
	}
}

func script(t *testing.T, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestOrphan leaves a server running whose lock is free, as a kill -9 does outside Linux.
func TestOrphan(t *testing.T) {
	t.Parallel()
	dir := seededDir(t)
	orphan := mustStartPostgres(t, dir)
	if err := orphan.lock.Close(); err != nil {
		t.Fatal(err)
	}
	p := mustStartPostgres(t, dir)
	select {
	case <-orphan.child.done:
	default:
		t.Error("the orphan runs on")
	}
	query(t, p, "SELECT 'works'")
}

func TestStalePidFile(t *testing.T) {
	t.Parallel()
	dir := seededDir(t)
	home := filepath.Join(dir, "postgres")
	as, err := accountFor(home)
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := as.command(machine(nil), "/", "/bin/sleep", "1000") // PostgreSQL only respects a pid of its own user
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := startChild(sleep, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.stop()
	dead := exec.Command("/bin/sh", "-c", "exit 0")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(home, "data")
	content := "%d\n" + data + "\n1700000000\n5432\n\n127.0.0.1\n        1         1\nready   \n"
	for name, pidFile := range map[string]string{
		"of another program": fmt.Sprintf(content, sleep.Process.Pid),
		"of nobody":          fmt.Sprintf(content, dead.Process.Pid),
		"torn":               "",
	} {
		path := filepath.Join(data, "postmaster.pid")
		if err := os.WriteFile(path, []byte(pidFile), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := as.own(path); err != nil {
			t.Fatal(err)
		}
		p, err := StartPostgres(t.Context(), dir, machine(nil), t.Output())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p.Close()
	}
	if !alive(t, sleep.Process.Pid) {
		t.Error("the other program was stopped")
	}
}

// TestRootRunsAsTheOwner runs as root on a folder that belongs to another user.
func TestRootRunsAsTheOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give the data to another user")
	}
	dir := seededDir(t)
	home := filepath.Join(dir, "postgres")
	if output, err := exec.Command("chown", "-R", "54321:54321", home).CombinedOutput(); err != nil {
		t.Fatalf("chown: %s", output)
	}
	query(t, mustStartPostgres(t, dir), "SELECT 'works'")
}

func TestOtherMajorVersion(t *testing.T) {
	t.Parallel()
	dir := seededDir(t)
	version := filepath.Join(dir, "postgres", "data", "PG_VERSION")
	if err := os.WriteFile(version, []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bin, err := findBinaries(machine(nil), installFolders())
	if err != nil {
		t.Fatal(err)
	}
	_, err = StartPostgres(t.Context(), dir, machine(nil), t.Output())
	oneLine(t, err, "made by PostgreSQL 9,", bin, "PG_BINDIR", "DATA_DIR")
	if _, err := os.Stat(filepath.Join(dir, "postgres", "data", "base")); err != nil {
		t.Errorf("the data is gone: %v", err)
	}
}

func TestFailingStartShowsTheLog(t *testing.T) {
	t.Parallel()
	dir := seededDir(t)
	settings := filepath.Join(dir, "postgres", "data", "postgresql.conf")
	file, err := os.OpenFile(settings, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("shared_buffers = nonsense\n"); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = StartPostgres(t.Context(), dir, machine(nil), t.Output())
	oneLine(t, err, "postgresql.conf", "contains errors", filepath.Join(dir, "postgres.log"))
}

// TestPortTakenMeanwhile starts a stand-in for a server whose port was taken after it was chosen.
func TestPortTakenMeanwhile(t *testing.T) {
	t.Parallel()
	dir := seededDir(t)
	bin := t.TempDir()
	script(t, filepath.Join(bin, "postgres"), `echo "LOG:  could not bind IPv4 address: Address already in use" >&2; exit 1`)
	c := &cluster{home: filepath.Join(dir, "postgres"), bin: bin, env: machine(nil)}
	var err error
	if c.as, err = accountFor(c.home); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "postgres.log")
	_, err = c.serve(t.Context(), log)
	oneLine(t, err, errPortTaken.Error())
	if said, err := os.ReadFile(log); err != nil || strings.Count(string(said), "\n") != 3 {
		t.Errorf("not three attempts: %s, %v", said, err)
	}
}

func TestComplaint(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]string{
		"creating directory … ok\ninitdb: error: could not create it: Read-only\n":      "could not create it: Read-only",
		"x LOG:  a\nx FATAL:  lock file exists\nx HINT:  Is another running?\nx LOG: b": "lock file exists; Is another running?",
		"one\nlast words\n": "last words",
	} {
		if got := complaint(output); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func TestLogIsEmptiedWhenItHasGrown(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	for size, want := range map[int64]int64{logLimit: logLimit, logLimit + 1: 0} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		log, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := log.Stat(); err != nil || info.Size() != want {
			t.Errorf("%d bytes became %d, %v", size, info.Size(), err)
		}
		_ = log.Close()
	}
}

func TestReservedPortIsRefusedAndFreedAgain(t *testing.T) {
	t.Parallel()
	port, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + strconv.Itoa(port.number)
	if _, err := freeAddr(addr); err == nil {
		t.Error("somebody else can listen on the reserved port")
	}
	port.release()
	for range 2 {
		if _, err := freeAddr(addr); err != nil {
			t.Error(err)
		}
	}
}
