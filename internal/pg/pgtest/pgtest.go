// Package pgtest provides a database for each test, on a real server. One that a test has left with the schema it got, and small, is
// emptied, and another test gets it under another name: to make one costs half a second of computing, to empty one a tenth of that.
//
// The server is that of DATABASE_URL, whose user must be allowed to create databases and roles. Without DATABASE_URL it is
// the one on 127.0.0.1:5432 if CI is true, else a private one, which is started for the test process and stopped with it. If
// there is no server, the tests fail.
package pgtest

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"plinth/internal/dev"
	"plinth/internal/pg"
)

const (
	ciURL  = "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable"
	prefix = "plinth_test_" // followed by the creation time in Unix seconds and a random part
	maxAge = 24 * time.Hour
	limit  = 30 * time.Second // for each step

	// The values of -test.parallel. Tests wait more than they compute, but a system of the end-to-end tests has more than 20
	// connections to PostgreSQL, which accepts 100 by default. The private server accepts 400.
	parallelOnShared, parallelOnPrivate = "3", "5"
)

// server is set by Main for the tests of this process. A global is the only way to pass it to them.
var server struct {
	url      string
	template string
	spare    spare
}

// Main runs the tests of a package with a server for New, and returns the exit status:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
func Main(m *testing.M) int {
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	return status
}

func run(m *testing.M) (status int, err error) {
	serverURL, parallel, stop, err := start()
	if err != nil {
		return 0, err
	}
	defer stop()
	if err := SetParallel(parallel); err != nil {
		return 0, err
	}
	server.url = serverURL
	if err := sweep(); err != nil {
		return 0, err
	}
	if server.template, err = create(""); err != nil {
		return 0, err
	}
	defer func() {
		if dropErr := drop(server.template); err == nil {
			err = dropErr
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := pg.Migrate(ctx, databaseURL(server.template), zap.NewNop()); err != nil {
		return 0, err
	}
	if err := onDatabase(server.template, func(ctx context.Context, conn *pgx.Conn) (err error) {
		server.spare.fresh, err = read(ctx, conn)
		return err
	}); err != nil {
		return 0, err
	}
	defer func() {
		if dropErr := server.spare.drop(); err == nil {
			err = dropErr
		}
	}()
	return m.Run(), nil
}

// SetParallel sets the flag -test.parallel, unless it was set. A package whose tests wait for little else than time calls it before
// Main.
func SetParallel(parallel string) error {
	flag.Parse()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if set {
		return nil
	}
	return flag.Set("test.parallel", parallel)
}

// New returns the URL of a database that is as new, with the newest schema. It is gone when the test ends.
func New(t testing.TB) string {
	t.Helper()
	name := server.spare.take()
	if name == "" {
		var err error
		if name, err = create(server.template); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if server.spare.keep(name) {
			return
		}
		if err := drop(name); err != nil {
			t.Error(err)
		}
	})
	return databaseURL(name)
}

// NewEmpty returns the URL of a new database that was never migrated. It is dropped when the test ends.
func NewEmpty(t testing.TB) string {
	t.Helper()
	name, err := create("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := drop(name); err != nil {
			t.Error(err)
		}
	})
	return databaseURL(name)
}

// Owner returns connections to a database that run as the user of its URL, who owns the tables. They are closed when the
// test ends.
func Owner(t testing.TB, databaseURL string) *pgxpool.Pool {
	t.Helper()
	of := owner{t, databaseURL}
	if pool, open := owners.Load(of); open { // A test that polls would have a pool for each look.
		return pool.(*pgxpool.Pool)
	}
	pool, err := pgxpool.New(context.Background(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	owners.Store(of, pool)
	t.Cleanup(func() {
		owners.Delete(of)
		pool.Close()
	})
	return pool
}

// owners are the pools of Owner, by the test and the database.
var owners sync.Map

type owner struct {
	t           testing.TB
	databaseURL string
}

func start() (serverURL, parallel string, stop func(), err error) {
	if serverURL := os.Getenv("DATABASE_URL"); serverURL != "" {
		return serverURL, parallelOnShared, func() {}, nil
	}
	if os.Getenv("CI") == "true" {
		return ciURL, parallelOnShared, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "plinth-pgtest-")
	if err != nil {
		return "", "", nil, err
	}
	private, err := dev.StartPostgres(context.Background(), dir, env.ToMap(os.Environ()), os.Stderr)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", "", nil, err
	}
	stop = func() {
		private.Close()
		_ = os.RemoveAll(dir)
	}
	if err := forget(private.URL()); err != nil {
		stop()
		return "", "", nil, err
	}
	return private.URL(), parallelOnPrivate, stop, nil
}

// forget has a server not wait for its disk: nobody needs what it has once the tests are over. Those that kill a server have one
// of their own.
func forget(url string) error {
	return on(url, func(ctx context.Context, conn *pgx.Conn) error {
		for _, statement := range []string{
			"ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()",
		} {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}

func create(template string) (name string, err error) {
	name = newName()
	statement := "CREATE DATABASE " + name
	if template != "" {
		statement += " TEMPLATE " + template
	}
	return name, onServer(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement)
		return err
	})
}

func newName() string {
	return prefix + strconv.FormatInt(time.Now().Unix(), 10) + "_" + strings.ToLower(rand.Text()[:10])
}

func drop(name string) error {
	return onServer(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		return err
	})
}

// sweep drops databases that killed test processes have left behind.
func sweep() error {
	var names []string
	err := onServer(func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", prefix)
		if err != nil {
			return err
		}
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		made, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "_")
		seconds, err := strconv.ParseInt(made, 10, 64)
		if err != nil || time.Since(time.Unix(seconds, 0)) < maxAge {
			continue
		}
		if err := drop(name); err != nil {
			return err
		}
	}
	return nil
}

func onServer(f func(ctx context.Context, conn *pgx.Conn) error) error { return on(server.url, f) }

func onDatabase(name string, f func(ctx context.Context, conn *pgx.Conn) error) error {
	return on(databaseURL(name), f)
}

func on(url string, f func(ctx context.Context, conn *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("the test database server: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := f(ctx, conn); err != nil {
		return fmt.Errorf("the test database server: %w", err)
	}
	return nil
}

// databaseURL returns the server's URL with another database.
func databaseURL(name string) string {
	u, err := url.Parse(server.url)
	if err != nil {
		panic(err) // The server was reached by this URL.
	}
	u.Path = "/" + name
	return u.String()
}
