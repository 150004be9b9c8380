package pgtest

import (
	"context"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"plinth/internal/dev"
	"plinth/internal/pg"
)

// Server is a private server, which a test may do anything to.
type Server struct {
	*dev.Postgres
	dir string
}

// NewServer starts a server that has a database with the newest schema. It is stopped when the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	return migrated(t, serve(t, t.TempDir(), env.ToMap(os.Environ())))
}

// migrated gives a server's database the newest schema.
func migrated(t testing.TB, s *Server) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := pg.Migrate(ctx, s.URL(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	return s
}

func serve(t testing.TB, dir string, environment map[string]string) *Server {
	t.Helper()
	private, err := dev.StartPostgres(t.Context(), dir, environment, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(private.Close)
	return &Server{private, dir}
}

// Follow starts a standby of the server, which is stopped when the test ends. The test is skipped where pg_basebackup is not
// installed, or of another version than the server.
func (s *Server) Follow(t testing.TB) *Server {
	t.Helper()
	dir, theirs := t.TempDir(), filepath.Join(s.dir, "postgres")
	ours := filepath.Join(dir, "postgres")
	program := Program(t, "pg_basebackup")
	var is string
	if err := s.owner(t).QueryRow(t.Context(), `SHOW server_version`).Scan(&is); err != nil {
		t.Fatal(err)
	}
	is, _, _ = strings.Cut(is, ".")
	if of, err := exec.Command(program, "--version").Output(); err != nil || !strings.HasPrefix(string(of), "pg_basebackup (PostgreSQL) "+is+".") {
		t.Skipf("%s is not of the server's version, %s: %s %v", program, is, of, err)
	}
	copying := exec.Command(program, "-D", filepath.Join(ours, "data"), "-R", "-X", "stream", "-c", "fast", "-d", s.URL())
	if output, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	password, err := os.ReadFile(filepath.Join(theirs, "password"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(ours, "password"), password, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(theirs)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if err := filepath.WalkDir(ours, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	}); err != nil {
		t.Fatal(err)
	}
	return serve(t, dir, env.ToMap(os.Environ()))
}

// Demote has the server take no writes any more, as it is found behind some addresses after a failover.
func (s *Server) Demote(t testing.TB) {
	s.set(t, `ALTER SYSTEM SET default_transaction_read_only = on`, "on")
}

// Recover undoes Demote.
func (s *Server) Recover(t testing.TB) {
	s.set(t, `ALTER SYSTEM RESET default_transaction_read_only`, "off")
}

// set changes default_transaction_read_only, and waits until sessions have it.
func (s *Server) set(t testing.TB, statement, want string) {
	t.Helper()
	owner := s.owner(t)
	if _, err := owner.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Exec(t.Context(), `SELECT pg_reload_conf()`); err != nil {
		t.Fatal(err)
	}
	await(t, "the setting is in effect", func() bool {
		var got string
		return owner.QueryRow(t.Context(), `SHOW default_transaction_read_only`).Scan(&got) == nil && got == want
	})
}

// Promote has a standby become a primary, once it has all that the one before has written.
func (s *Server) Promote(t testing.TB, before *Server) {
	t.Helper()
	var written string
	if err := before.owner(t).QueryRow(t.Context(), `SELECT pg_current_wal_flush_lsn()::text`).Scan(&written); err != nil {
		t.Fatal(err)
	}
	owner := s.owner(t)
	await(t, "the standby has all", func() bool {
		var has bool
		return owner.QueryRow(t.Context(), `SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn`, written).Scan(&has) == nil && has
	})
	if _, err := owner.Exec(t.Context(), `SELECT pg_promote()`); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) owner(t testing.TB) *pgxpool.Pool { return Owner(t, s.URL()) }

// Hosts returns the URL of several servers of one cluster.
func Hosts(t testing.TB, servers ...*Server) string {
	t.Helper()
	var all url.URL
	var hosts []string
	for _, s := range servers {
		u, err := url.Parse(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		all, hosts = *u, append(hosts, u.Host)
	}
	all.Host = strings.Join(hosts, ",")
	return all.String()
}

// Program returns the path of one of PostgreSQL's programs. The test is skipped where it is not installed.
func Program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return installed(t, "/usr/lib/postgresql/*/bin/"+name)
}

// installed returns the last path that matches a pattern. The test is skipped where there is none.
func installed(t testing.TB, pattern string) string {
	t.Helper()
	if found, _ := filepath.Glob(pattern); len(found) > 0 {
		return found[len(found)-1]
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(pattern + " is not installed")
	}
	t.Skip(pattern + " is not installed")
	return ""
}

func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
