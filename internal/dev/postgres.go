package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	databaseUser = "plinth" // the superuser
	databaseName = "plinth"

	// startLimit bounds the start of a server, crash recovery included.
	startLimit = 30 * time.Second
)

var errPortTaken = errors.New("another process took the port of the private PostgreSQL: start again")

// Postgres is a private PostgreSQL server, a child process.
type Postgres struct {
	lock  *os.File
	child *child
	url   string
}

// StartPostgres starts a PostgreSQL whose data is in dir, which it creates if necessary. It returns when the server accepts
// connections, which takes up to 30 s after a crash. It listens on a free port of 127.0.0.1. The binaries are those in env's
// PG_BINDIR, in its PATH, or installed by Debian or Homebrew. Otherwise they are downloaded, and out gets a line about that.
// ctx only bounds the start; the server runs until Close, or until this process ends. An error is one line for a person.
func StartPostgres(ctx context.Context, dir string, env map[string]string, out io.Writer) (*Postgres, error) {
	folder, err := canonical(dir)
	if err != nil {
		return nil, explain(dir, err)
	}
	lock, err := lockFolder(folder)
	if err != nil {
		return nil, explain(dir, err)
	}
	p, err := startPostgres(ctx, folder, env, out)
	if err != nil {
		_ = lock.Close()
		return nil, explain(dir, err)
	}
	p.lock = lock
	return p, nil
}

// URL returns the URL of the database, with the password of its superuser.
func (p *Postgres) URL() string { return p.url }

// Close stops the server, within a second, and releases the folder. Transactions that are open are rolled back.
func (p *Postgres) Close() {
	p.stop()
	_ = p.lock.Close()
}

// stop asks for a fast shutdown, then for an immediate one, from which the next start recovers.
func (p *Postgres) stop() {
	p.child.stop(step{syscall.SIGINT, 700 * time.Millisecond}, step{syscall.SIGQUIT, 200 * time.Millisecond})
}

// startPostgres is StartPostgres for a caller that holds the lock of the folder.
func startPostgres(ctx context.Context, dir string, env map[string]string, out io.Writer) (*Postgres, error) {
	bin, err := findBinaries(env, installFolders())
	if err != nil {
		return nil, err
	}
	if bin == "" {
		if bin, err = download(ctx, dir, mavenCentral, out); err != nil {
			return nil, fmt.Errorf("PostgreSQL is not installed and cannot be downloaded (%w): install it (Debian, Ubuntu: "+
				"apt-get install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql@17), "+
				"set PG_BINDIR to the folder of its binaries, or set DATABASE_URL", err)
		}
	}
	c := &cluster{home: filepath.Join(dir, "postgres"), bin: bin, env: env}
	if c.as, err = accountFor(c.home); err != nil {
		return nil, err
	}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	p, err := c.serve(ctx, filepath.Join(dir, "postgres.log"))
	if err != nil {
		return nil, err
	}
	if err := writeSecret(filepath.Join(dir, "postgres.url"), p.url+"\n"); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// serve starts the server on a free port. Another process may take that port in between; then it takes another one.
func (c *cluster) serve(ctx context.Context, logPath string) (*Postgres, error) {
	password, err := os.ReadFile(c.passwordFile())
	if err != nil {
		return nil, err
	}
	log, err := openLog(logPath)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	for attempt := 1; ; attempt++ {
		p, err := c.serveOnce(ctx, string(password), log)
		if !errors.Is(err, errPortTaken) || attempt == 3 {
			return p, err
		}
	}
}

func (c *cluster) serveOnce(ctx context.Context, password string, log *os.File) (*Postgres, error) {
	port, err := reservePort()
	if err != nil {
		return nil, err
	}
	// The rest of its settings is what initdb chose for this machine: 128 MB of shared buffers, fsync on. Tests that run at the
	// same time have more than the usual 100 connections.
	cmd, err := c.as.command(c.env, c.home, filepath.Join(c.bin, "postgres"), "-D", c.data(),
		"-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(port.number), "-c", "unix_socket_directories=",
		"-c", "max_connections=400")
	if err != nil {
		port.release()
		return nil, err
	}
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		port.release()
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	port.release()
	// SIGQUIT is an immediate shutdown. After a SIGKILL, backends that are busy would outlive their postmaster.
	child, err := startChild(cmd, syscall.SIGQUIT)
	if err != nil {
		return nil, fmt.Errorf("run postgres: %w", err)
	}
	p := &Postgres{child: child, url: (&url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(databaseUser, password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port.number)),
		Path:     databaseName,
		RawQuery: "sslmode=disable",
	}).String()}
	if err := c.await(ctx, p, log, start); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// await waits until the server accepts connections and has its database. log holds its words from start on.
func (c *cluster) await(ctx context.Context, p *Postgres, log *os.File, start int64) error {
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for !c.ready(p.child.cmd.Process.Pid) {
		select {
		case <-p.child.done:
			return failure(log, start)
		case <-ctx.Done():
			return ctx.Err()
		case <-limited.Done():
			return fmt.Errorf("PostgreSQL does not accept connections after %s: %w", startLimit, failure(log, start))
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := ensureDatabase(limited, p.url); err != nil {
		return fmt.Errorf("connect to the private PostgreSQL: %w", err)
	}
	return nil
}

// ready reports whether the server accepts connections. As pg_ctl does, it reads that in postmaster.pid, whose eighth line
// is the status: ready, or standby for a server that follows another one. Connecting to find out would fill the log with
// refusals.
func (c *cluster) ready(pid int) bool {
	raw, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(raw), "\n")
	if len(lines) < 8 || lines[0] != strconv.Itoa(pid) {
		return false
	}
	status := strings.TrimSpace(lines[7])
	return status == "ready" || status == "standby"
}

// failure determines from the log why the server did not start.
func failure(log *os.File, start int64) error {
	end, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	said := make([]byte, end-start)
	if _, err := log.ReadAt(said, start); err != nil {
		return err
	}
	if strings.Contains(string(said), "Address already in use") {
		return errPortTaken
	}
	if len(said) == 0 {
		return fmt.Errorf("PostgreSQL ended without a word (its log is %s)", log.Name())
	}
	return fmt.Errorf("%w (the log is %s)", saidBy("PostgreSQL", string(said)), log.Name())
}

// ensureDatabase creates the database at the first start. If a start was cut short before this point, the next one does it.
func ensureDatabase(ctx context.Context, address string) error {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		return conn.Close(ctx)
	}
	if refusal := new(pgconn.PgError); !errors.As(err, &refusal) || refusal.Code != "3D000" { // invalid_catalog_name
		return err
	}
	config.Database = "postgres"
	if conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{databaseName}.Sanitize())
	return errors.Join(err, conn.Close(ctx))
}
