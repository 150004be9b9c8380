package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cluster is the data folder of a PostgreSQL (which calls it a database cluster) with its password, and what is needed to
// run a server on it.
type cluster struct {
	home string // holds data/ and password; owned by the account
	bin  string // holds postgres and initdb
	as   account
	env  map[string]string
}

func (c *cluster) data() string         { return filepath.Join(c.home, "data") }
func (c *cluster) passwordFile() string { return filepath.Join(c.home, "password") }

// prepare creates the cluster if it does not exist, or else makes sure that a server can be started on it.
func (c *cluster) prepare(ctx context.Context) error {
	switch _, err := os.Stat(c.home); {
	case errors.Is(err, fs.ErrNotExist):
		return c.create(ctx)
	case err != nil:
		return err
	}
	if err := c.checkVersion(ctx); err != nil {
		return err
	}
	return c.removeOrphan(ctx)
}

// create runs initdb in a sibling folder and renames that, so that a cut at any moment leaves no half-made cluster behind.
func (c *cluster) create(ctx context.Context) error {
	leftovers, err := filepath.Glob(c.home + ".init-*")
	if err != nil {
		return err
	}
	for _, leftover := range leftovers {
		_ = os.RemoveAll(leftover) // a dying initdb may still write there; then the next start removes it
	}
	fresh := *c
	fresh.home, err = os.MkdirTemp(filepath.Dir(c.home), filepath.Base(c.home)+".init-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(fresh.home) }()
	if err := os.WriteFile(fresh.passwordFile(), []byte(rand.Text()), 0o600); err != nil {
		return err
	}
	for _, path := range []string{fresh.passwordFile(), fresh.home} {
		if err := c.as.own(path); err != nil {
			return err
		}
	}
	cmd, err := c.as.command(c.env, fresh.home, filepath.Join(c.bin, "initdb"), "--pgdata="+fresh.data(),
		"--username="+databaseUser, "--pwfile="+fresh.passwordFile(), "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale")
	if err != nil {
		return err
	}
	output, err := runChild(ctx, cmd)
	var exit interface{ ExitCode() int }
	switch {
	case errors.As(err, &exit):
		return saidBy("initdb", output)
	case err != nil:
		return fmt.Errorf("run initdb: %w", err)
	}
	return os.Rename(fresh.home, c.home)
}

// checkVersion compares the major version that made the data with the one of the binaries: PostgreSQL reads no other's.
func (c *cluster) checkVersion(ctx context.Context) error {
	raw, err := os.ReadFile(filepath.Join(c.data(), "PG_VERSION"))
	if err != nil {
		return err
	}
	cmd, err := c.as.command(c.env, c.home, filepath.Join(c.bin, "postgres"), "--version")
	if err != nil {
		return err
	}
	output, err := runChild(ctx, cmd)
	if err != nil {
		return fmt.Errorf("ask %s/postgres for its version: %w", c.bin, err)
	}
	made, found := strings.TrimSpace(string(raw)), regexp.MustCompile(`\d+`).FindString(output)
	if made != found {
		return fmt.Errorf("%s was made by PostgreSQL %s, and the one in %s is version %s: set PG_BINDIR to the bin folder "+
			"of a PostgreSQL %s, or set DATA_DIR to another folder", c.data(), made, c.bin, found, made)
	}
	return nil
}

// removeOrphan makes sure that nothing stands in the way of a new postmaster. The caller holds the lock of the folder, so a
// postmaster that lives is an orphan and is stopped. A postmaster.pid that names nobody is left to PostgreSQL, which
// checks more than the pid; one that names another program (pids are reused) or is torn would make it refuse to start.
func (c *cluster) removeOrphan(ctx context.Context) error {
	pidFile := filepath.Join(c.data(), "postmaster.pid")
	raw, err := os.ReadFile(pidFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil || pid <= 1 {
		return os.Remove(pidFile)
	}
	switch command := commandLine(pid); {
	case command == "":
		return nil
	case strings.Contains(command, c.data()):
		return stopOrphan(ctx, pid)
	case strings.Contains(command, "postgres"):
		return nil // another server's process, most likely; PostgreSQL says so when it is in its way
	default:
		return os.Remove(pidFile)
	}
}

// stopOrphan asks a postmaster for a fast shutdown, then for an immediate one, and kills it at last.
func stopOrphan(ctx context.Context, pid int) error {
	for _, s := range []step{{syscall.SIGINT, 5 * time.Second}, {syscall.SIGQUIT, time.Second}, {syscall.SIGKILL, time.Second}} {
		if err := syscall.Kill(pid, s.signal); errors.Is(err, syscall.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("PostgreSQL still runs on its data as process %d, which cannot be stopped (%w): stop it", pid, err)
		}
		for deadline := time.Now().Add(s.grace); time.Now().Before(deadline); {
			if commandLine(pid) == "" { // gone, or a zombie
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return fmt.Errorf("PostgreSQL still runs on its data as process %d: stop it", pid)
}
