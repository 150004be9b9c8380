package lock_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	osexec "os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/dev"
	"plinth/internal/kv"
	"plinth/internal/lock"
	"plinth/internal/pg"
)

const (
	contenderOf = "PLINTH_TEST_CONTENDER_OF" // the database of a process that contends in the storm
	stormTTL    = time.Second
)

// TestStorm has processes contend for one lock, while they are stopped for longer than their TTL, PostgreSQL is restarted, connections
// are cut, the clock is set an hour ahead and back, and rows are swept. What they write is guarded, or refuses older tokens.
func TestStorm(t *testing.T) {
	t.Parallel()
	length, contenders := 6*time.Second, 3
	if os.Getenv("CI") == "true" {
		length, contenders = time.Minute, 8
	}
	s := newStorm(t)
	var children []*osexec.Cmd
	for range contenders {
		children = append(children, s.contend(t))
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	stop := func() { s.stopHolder(ctx, children) }
	faults := []func(){
		stop,
		func() { s.setClock(ctx, time.Duration(rand.N(3)-1)*time.Hour) },
		s.cut,
		func() { s.restart(t) },
		stop,
	}
	for i := 0; ctx.Err() == nil; i++ {
		faults[i%len(faults)]()
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	s.setClock(t.Context(), 0)
	for _, c := range children {
		_ = c.Process.Signal(syscall.SIGCONT)
		_ = c.Process.Signal(syscall.SIGTERM)
	}
	for _, c := range children {
		if err := c.Wait(); err != nil {
			t.Errorf("a contender: %v", err)
		}
	}
	owner := s.address()
	writes, stale := scalar[int](t, owner, `SELECT count(*) FROM writes`), scalar[int](t, owner, `SELECT count(*) FROM refused`)
	t.Logf("%d guarded writes of %d leases, %d refused", writes, scalar[int](t, owner, `SELECT count(*) FROM leases`), stale)
	if writes < contenders {
		t.Errorf("only %d writes", writes)
	}
	if n := scalar[int](t, owner, `SELECT count(*) FROM (SELECT token < lag(token) OVER (ORDER BY n) AS back FROM writes) AS w WHERE back`); n != 0 {
		t.Errorf("%d guarded writes of older leases", n)
	}
	if n := scalar[int](t, owner, `SELECT count(*) FROM (SELECT count(DISTINCT lease) AS of FROM leases GROUP BY token) AS l WHERE of > 1`); n != 0 {
		t.Errorf("%d tokens were given twice", n)
	}
	if n := scalar[int](t, owner, `SELECT count(*) FROM (SELECT token < lag(token) OVER (ORDER BY n) AS back FROM leases) AS l WHERE back`); n != 0 {
		t.Errorf("%d tokens are smaller than the one before", n)
	}
}

// storm is a private PostgreSQL behind an address that stays.
type storm struct {
	dir      string
	listener net.Listener

	mu     sync.Mutex
	server *dev.Postgres
	conns  map[net.Conn]struct{}
}

func newStorm(t *testing.T) *storm {
	t.Helper()
	s := &storm{dir: t.TempDir(), conns: map[net.Conn]struct{}{}}
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	t.Cleanup(func() { s.server.Close(); _ = s.listener.Close() })
	go s.serve()
	if err := pg.Migrate(t.Context(), s.address(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	clock(t, s.address())
	// A lease is written down in the order of the locks, since its row is locked: see contender.hold.
	exec(t, s.address(), `CREATE TABLE ledger (n bigint, token bigint); INSERT INTO ledger VALUES (0, 0);
		CREATE TABLE writes (n bigint PRIMARY KEY, token bigint); CREATE TABLE refused (token bigint);
		CREATE TABLE leases (n bigint GENERATED ALWAYS AS IDENTITY, token bigint, lease uuid);
		GRANT ALL ON ledger, writes, refused TO PUBLIC;
		CREATE FUNCTION note_lease() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
			$$ BEGIN INSERT INTO leases (token, lease) VALUES (NEW.token, NEW.lease_id); RETURN NULL; END $$;
		CREATE TRIGGER note AFTER INSERT OR UPDATE OF token ON locks FOR EACH ROW EXECUTE FUNCTION note_lease()`)
	return s
}

// restart starts the server, and ends the one before as a crash does if need be.
func (s *storm) restart(t *testing.T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		s.server.Close()
	}
	env := map[string]string{}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	var err error
	if s.server, err = dev.StartPostgres(t.Context(), s.dir, env, io.Discard); err != nil {
		t.Error(err)
	}
}

func (s *storm) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server.URL()
}

// serve forwards connections to wherever the server is now.
func (s *storm) serve() {
	for {
		client, err := s.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			u, err := url.Parse(s.address())
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", u.Host)
			if err != nil {
				return
			}
			defer server.Close()
			s.mu.Lock()
			s.conns[client] = struct{}{}
			s.mu.Unlock()
			go func() { _, _ = io.Copy(server, client); server.Close() }()
			_, _ = io.Copy(client, server)
			s.mu.Lock()
			delete(s.conns, client)
			s.mu.Unlock()
		}()
	}
}

// cut ends all connections.
func (s *storm) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

func (s *storm) setClock(ctx context.Context, ahead time.Duration) {
	for ctx.Err() == nil {
		conn, err := pgx.Connect(ctx, s.address())
		if err == nil {
			_, err = conn.Exec(ctx, `UPDATE moved.by SET ahead = $1`, ahead)
			_ = conn.Close(ctx)
		}
		if err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// stopHolder stops the process that has the lock, or else any, for longer than its lease lasts.
func (s *storm) stopHolder(ctx context.Context, children []*osexec.Cmd) {
	c := children[rand.N(len(children))]
	if conn, err := pgx.Connect(ctx, s.address()); err == nil {
		var owner string
		_ = conn.QueryRow(ctx, `SELECT owner FROM locks WHERE lease_id IS NOT NULL`).Scan(&owner)
		_ = conn.Close(ctx)
		for _, child := range children {
			if strings.HasSuffix(owner, ":"+strconv.Itoa(child.Process.Pid)) {
				c = child
			}
		}
	}
	_ = c.Process.Signal(syscall.SIGSTOP)
	defer func() { _ = c.Process.Signal(syscall.SIGCONT) }()
	select {
	case <-time.After(stormTTL * 3 / 2):
	case <-ctx.Done():
	}
}

// contend starts a process of this test that contends.
func (s *storm) contend(t *testing.T) *osexec.Cmd {
	t.Helper()
	u, err := url.Parse(s.address())
	if err != nil {
		t.Fatal(err)
	}
	u.Host = s.listener.Addr().String()
	q := u.Query()
	q.Set("search_path", "public,moved,pg_catalog")
	u.RawQuery = q.Encode()
	c := osexec.Command(os.Args[0])
	c.Env = append(os.Environ(), contenderOf+"="+u.String())
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

// contend is the main function of such a process. It returns the status.
func contend() int {
	kv.LogTo(zap.NewNop())
	redis := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // Correct locks go on without.
	n, err := start(os.Getenv(contenderOf), redis, lock.Limits{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(auth.AsService(context.Background(), "acme"))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() { <-ended; cancel() }()
	for ctx.Err() == nil {
		err := n.With(ctx, "a", func(within context.Context, token int64) error {
			for range 3 {
				time.Sleep(rand.N(30 * time.Millisecond))
				// It does not look at its context: Guard has to find out.
				if err := n.write(ctx, within, token); err != nil {
					return err
				}
			}
			return nil
		}, lock.TTL(stormTTL))
		if err != nil {
			time.Sleep(10 * time.Millisecond)
		}
		if isLost(err) {
			_, _ = n.db.Exec(ctx, `INSERT INTO refused VALUES (0)`)
		}
	}
	n.stop()
	return 0
}

// write writes under a lease, in a transaction that is slow for a moment.
func (n node) write(ctx, within context.Context, token int64) error {
	return n.db.InTx(ctx, func(tx *pg.Tx) error {
		_, err := tx.Exec(ctx, `WITH next AS (UPDATE ledger SET n = n + 1, token = $1 RETURNING n) INSERT INTO writes SELECT n, $1 FROM next`, token)
		if err != nil {
			return err
		}
		time.Sleep(rand.N(5 * time.Millisecond))
		return lock.Guard(within, tx)
	})
}
