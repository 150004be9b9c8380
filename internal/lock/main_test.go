package lock_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/lock"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(contenderOf) != "" {
		os.Exit(contend())
	}
	// Its tests wait for leases to end, and for servers to take over. Each has a few connections.
	if err := pgtest.SetParallel("8"); err != nil {
		panic(err)
	}
	os.Exit(pgtest.Main(m))
}

// patience bounds every wait; no healthy machine needs it.
const patience = 30 * time.Second

// node is the service of one process.
type node struct {
	*lock.Service
	db   *pg.DB
	stop func() // ends its parts as a killed process would: nothing is cleaned up
}

// newNode returns a service over a database, with a Redis in memory of its own.
func newNode(t *testing.T, databaseURL string) node { return newLimited(t, databaseURL, lock.Limits{}) }

func newLimited(t *testing.T, databaseURL string, limits lock.Limits) node {
	t.Helper()
	redis, err := kv.Open("redis://" + miniredis.RunT(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Close() })
	n, err := start(databaseURL, redis, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.stop(); n.db.Close() })
	return n
}

func start(databaseURL string, redis redis.UniversalClient, limits lock.Limits) (node, error) {
	log := zap.NewNop()
	db, err := pg.Open(context.Background(), pg.Config{URL: databaseURL})
	if err != nil {
		return node{}, err
	}
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: databaseURL, Log: log})
	if err != nil {
		return node{}, err
	}
	s := lock.New(lock.Config{DB: db, System: db.System(), Notifier: notifier, Redis: redis, Limits: limits, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { notifier.Run(ctx); done <- struct{}{} }()
	go func() { _ = s.Run(ctx); done <- struct{}{} }()
	return node{s, db, func() { cancel(); <-done; done <- struct{}{} }}, nil
}

// as returns a context that acts for a tenant and bounds a test.
func as(t *testing.T, tenant string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return auth.AsService(ctx, tenant)
}

func name(t testing.TB, s string) lock.Name {
	t.Helper()
	n, err := lock.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// request asks for the lock "a" of a client.
func request(t testing.TB, owner string) lock.Request {
	return lock.Request{Name: name(t, "a"), TTL: 10 * time.Second, Owner: owner, LeaseID: uuid.New()}
}

func (n node) acquire(t *testing.T, ctx context.Context, r lock.Request) lock.Lease {
	t.Helper()
	var l lock.Lease
	until(t, "the lock is acquired", func() (ended bool) {
		var err error
		if l, err = n.Acquire(ctx, r); err != nil && !errs.Is(err, errs.Unavailable) { // A busy machine answers late.
			t.Fatal(err)
		}
		return err == nil
	})
	return l
}

func (n node) release(t *testing.T, ctx context.Context, l lock.Lease) {
	t.Helper()
	if released, err := n.Release(ctx, l.Name, l.ID, false); err != nil || !released {
		t.Errorf("released %t, error %v", released, err)
	}
}

// exec runs a statement as the owner of the tables.
func exec(t *testing.T, databaseURL, sql string, args ...any) {
	t.Helper()
	if _, err := pgtest.Owner(t, databaseURL).Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// scalar returns the one value of a query.
func scalar[T any](t *testing.T, databaseURL, sql string, args ...any) (v T) {
	t.Helper()
	if err := pgtest.Owner(t, databaseURL).QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// until polls until is reports true.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// waiting polls until so many wait for the lock "a".
func (n node) waiting(t *testing.T, ctx context.Context, want int64) {
	t.Helper()
	until(t, fmt.Sprintf("%d wait", want), func() bool {
		l, err := n.Get(ctx, name(t, "a"))
		return err == nil && l.Waiters == want
	})
}

// clock gives a database a clock of its own, which set moves: a function hides that of PostgreSQL.
func clock(t *testing.T, databaseURL string) (movable string, set func(ahead time.Duration)) {
	t.Helper()
	exec(t, databaseURL, `CREATE SCHEMA moved; GRANT USAGE ON SCHEMA moved TO PUBLIC;
		CREATE TABLE moved.by (ahead interval NOT NULL); INSERT INTO moved.by VALUES ('0'); GRANT SELECT ON moved.by TO PUBLIC;
		CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
		AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM moved.by'`)
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", "public,moved,pg_catalog")
	u.RawQuery = q.Encode()
	return u.String(), func(ahead time.Duration) { exec(t, databaseURL, `UPDATE moved.by SET ahead = $1`, ahead) }
}

func isLost(err error) bool { return errors.Is(err, lock.ErrLost) }
