package pg_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

func TestUnusableURLErrorHidesThePassword(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	for _, url := range []string{
		"postgres://app:" + secret + "@host:port/app",
		"postgres://app:" + secret + "/1@host/app",
		"postgres://app:%zz" + secret + "@host/app",
		"postgres://app:" + secret + "@host/app?sslmode=perhaps",
		"postgres://app@host/app?sslmode=perhaps&password=" + secret,
		"postgres://app:" + secret + "@host/app?pool_max_conns=many",
		"postgres://app:" + secret + "@host/app?pool_max_conns=0",
		"host=host password='" + secret + "' sslmode=perhaps",
		"password=" + secret + " nonsense",
		"host=host password = " + secret + " sslmode=perhaps",
		"password = " + secret + " nonsense",
	} {
		_, openErr := pg.Open(t.Context(), pg.Config{URL: url})
		_, listenErr := pg.NewNotifier(pg.NotifierConfig{URL: strings.ReplaceAll(url, "pool_max_conns", "port"), Log: zap.NewNop()})
		for _, err := range []error{openErr, listenErr} {
			if err == nil {
				t.Fatalf("%s: no error", url)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the password: %v", err)
			}
		}
	}
	_, err := pg.Open(t.Context(), pg.Config{URL: "postgres://app@host/app?sslmode=perhaps"})
	if !strings.Contains(err.Error(), "sslmode") {
		t.Errorf("%v, want the reason", err)
	}
}

func TestAwayServerIsUnavailable(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	const nobody = "127.0.0.1:1" // The system never assigns this port to a process that asks for any port.
	db := open(t, pg.Config{URL: "postgres://app:" + secret + "@" + nobody + "/app?sslmode=disable"})
	_, execErr := db.Exec(t.Context(), "SELECT 1")
	_, queryErr := db.Query(t.Context(), "SELECT 1")
	_, schemaErr := db.SchemaCurrent(t.Context())
	for name, err := range map[string]error{
		"Writable":      db.Writable(t.Context()),
		"Exec":          execErr,
		"Query":         queryErr,
		"QueryRow":      db.QueryRow(t.Context(), "SELECT 1").Scan(new(int)),
		"InTx":          db.InTx(t.Context(), func(*pg.Tx) error { return nil }),
		"SchemaCurrent": schemaErr,
	} {
		if !errs.Is(err, errs.Unavailable) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want errs.Unavailable without the password", name, err)
		}
	}
}

func TestExhaustedPoolIsUnavailable(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t), MaxConns: 1})
	err := db.InTx(t.Context(), func(*pg.Tx) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := db.Exec(ctx, "SELECT 1"); !errs.Is(err, errs.Unavailable) {
			t.Errorf("Exec: %v, want errs.Unavailable", err)
		}
		if err := db.InTx(ctx, func(*pg.Tx) error { return nil }); !errs.Is(err, errs.Unavailable) {
			t.Errorf("InTx: %v, want errs.Unavailable", err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if _, err := db.Exec(ctx, "SELECT 1"); !errs.Is(err, errs.Canceled) {
			t.Errorf("Exec: %v, want errs.Canceled", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSlowStatementIsNotUnavailable(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t)})
	if err := db.Writable(patient(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := db.Exec(ctx, "SELECT pg_sleep(60)"); !errs.Is(err, errs.DeadlineExceeded) {
		t.Errorf("%v, want errs.DeadlineExceeded", err)
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t), MaxConns: 1})
	insert := func(tx *pg.Tx) { exec(t, tx, "INSERT INTO queues (name) VALUES ('one')") }
	pid := scalar[int](t, db, "SELECT pg_backend_pid()")
	nothingWritten := func(t *testing.T) {
		t.Helper()
		if n := scalar[int](t, db, "SELECT count(*) FROM queues"); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if now := scalar[int](t, db, "SELECT pg_backend_pid()"); now != pid {
			t.Error("the connection was thrown away")
		}
	}

	t.Run("rolls back on an error", func(t *testing.T) {
		wrong := errors.New("wrong")
		if err := db.InTx(patient(t), func(tx *pg.Tx) error { insert(tx); return wrong }); err != wrong {
			t.Errorf("%v, want the error untouched", err)
		}
		nothingWritten(t)
	})
	t.Run("rolls back on cancellation and keeps the connection", func(t *testing.T) {
		ctx, cancel := context.WithCancel(patient(t))
		err := db.InTx(ctx, func(tx *pg.Tx) error { insert(tx); cancel(); return ctx.Err() })
		if !errs.Is(err, errs.Canceled) {
			t.Errorf("%v, want errs.Canceled", err)
		}
		nothingWritten(t)
	})
	t.Run("rolls back on a panic, which goes on", func(t *testing.T) {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v, want the panic", p)
			}
			nothingWritten(t)
		}()
		_ = db.InTx(patient(t), func(tx *pg.Tx) error { insert(tx); panic("boom") })
	})
	t.Run("commits", func(t *testing.T) {
		if err := db.InTx(patient(t), func(tx *pg.Tx) error { insert(tx); return nil }); err != nil {
			t.Fatal(err)
		}
		if n := scalar[int](t, db, "SELECT count(*) FROM queues"); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
	t.Run("leaves a unique violation to the caller", func(t *testing.T) {
		err := db.InTx(patient(t), func(tx *pg.Tx) error {
			_, err := tx.Exec(patient(t), "INSERT INTO queues (name) VALUES ('one')")
			return err
		})
		var reply *pgconn.PgError
		if !errors.As(err, &reply) || reply.Code != "23505" || !errs.Is(err, errs.Internal) {
			t.Errorf("%v, want the driver's error", err)
		}
	})
	t.Run("does not take another's network error for its own", func(t *testing.T) {
		elsewhere := &net.OpError{Op: "dial", Err: errors.New("refused")}
		if err := db.InTx(patient(t), func(*pg.Tx) error { return elsewhere }); err != error(elsewhere) {
			t.Errorf("%v, want the error untouched", err)
		}
	})
}

// terminate ends a connection and returns once it is gone. The form of pg_terminate_backend that waits is newer than PostgreSQL 13.
func terminate(t *testing.T, killer pg.Querier, pid int) {
	t.Helper()
	exec(t, killer, "SELECT pg_terminate_backend($1)", pid)
	for deadline := time.Now().Add(patience); scalar[int](t, killer, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("connection %d is still there", pid)
		}
	}
}

func TestLostConnectionIsUnavailable(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t)})
	killer := pgtest.Owner(t, pgtest.NewEmpty(t))
	// The role plinth_app may not terminate connections of the user that the pool connects as.
	const suicide = "SELECT set_config('role', 'none', true), pg_terminate_backend(pg_backend_pid())"
	if _, err := db.Exec(patient(t), suicide); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Exec: %v, want errs.Unavailable", err)
	}
	if err := db.QueryRow(patient(t), suicide).Scan(new(string), new(bool)); !errs.Is(err, errs.Unavailable) {
		t.Errorf("QueryRow: %v, want errs.Unavailable", err)
	}
	rows, err := db.Query(patient(t), suicide)
	if err == nil {
		for rows.Next() {
		}
		err = rows.Err()
	}
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("Query: %v, want errs.Unavailable", err)
	}
	for _, when := range []string{"statement", "commit"} {
		err := db.InTx(patient(t), func(tx *pg.Tx) error {
			terminate(t, killer, scalar[int](t, tx, "SELECT pg_backend_pid()"))
			if when == "commit" {
				return nil
			}
			_, _ = tx.Exec(patient(t), "SELECT 1") // The first statement may get the reason, the second only sees that the connection is gone.
			_, err := tx.Exec(patient(t), "SELECT 1")
			return err
		})
		if !errs.Is(err, errs.Unavailable) {
			t.Errorf("InTx at its %s: %v, want errs.Unavailable", when, err)
		}
	}
	if err := db.Writable(patient(t)); err != nil {
		t.Errorf("%v, want a new connection", err)
	}
}

func TestSerializationFailureIsAborted(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t)})
	exec(t, db, "INSERT INTO queues (name) VALUES ('one')")
	err := db.InTx(patient(t), func(tx *pg.Tx) error {
		exec(t, tx, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
		exec(t, tx, "SELECT FROM queues")
		exec(t, db, "UPDATE queues SET created_at = now()")
		_, err := tx.Exec(patient(t), "UPDATE queues SET created_at = now()")
		return err
	})
	if !errs.Is(err, errs.Aborted) {
		t.Errorf("%v, want errs.Aborted", err)
	}
}

func TestTimeoutsGiveWayToTheURL(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	for setting, want := range map[string]string{
		"":                                    "30s",
		"statement_timeout=2s":                "2s",
		"options=-c%20statement_timeout%3D3s": "3s",
	} {
		db := open(t, pg.Config{URL: url + separator + setting})
		if got := scalar[string](t, db, "SHOW statement_timeout"); got != want {
			t.Errorf("%q: statement_timeout is %s, want %s", setting, got, want)
		}
		err := db.InTx(patient(t), func(tx *pg.Tx) error {
			if got := scalar[string](t, tx, "SHOW statement_timeout"); got != want {
				t.Errorf("%q: statement_timeout is %s in a transaction, want %s", setting, got, want)
			}
			if got := scalar[string](t, tx, "SHOW idle_in_transaction_session_timeout"); got != "10s" {
				t.Errorf("%q: idle_in_transaction_session_timeout is %s", setting, got)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestSlowStatementsAreCancelled(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	db := open(t, pg.Config{URL: url + separator + "statement_timeout=50ms"})
	const slow = "SELECT pg_sleep(20)"
	_, alone := db.Exec(patient(t), slow)
	within := db.InTx(patient(t), func(tx *pg.Tx) error { _, err := tx.Exec(patient(t), slow); return err })
	for how, err := range map[string]error{"alone": alone, "in a transaction": within} {
		var reply *pgconn.PgError
		if !errors.As(err, &reply) || reply.Code != "57014" {
			t.Errorf("%s: %v, want a cancelled statement", how, err)
		}
	}
}

func TestAfterCommit(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db := open(t, pg.Config{URL: url})
	exec(t, pgtest.Owner(t, url), `CREATE TABLE items (n int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
		GRANT INSERT ON items TO plinth_app`)
	undo := errors.New("undo")
	var did []string
	after := func(tx *pg.Tx, what string) { tx.AfterCommit(func() { did = append(did, what) }) }
	inTx := func(fn func(tx *pg.Tx) error) error {
		return db.InTx(patient(t), func(tx *pg.Tx) error {
			err := fn(tx)
			if len(did) != 0 {
				t.Errorf("done before the commit: %v", did)
			}
			return err
		})
	}
	if err := inTx(func(tx *pg.Tx) error { after(tx, "rolled back"); return undo }); err != undo || len(did) != 0 {
		t.Errorf("%v, done: %v", err, did)
	}
	err := inTx(func(tx *pg.Tx) error { // The commit itself fails.
		after(tx, "not committed")
		_, err := tx.Exec(patient(t), `INSERT INTO items VALUES (1), (1)`)
		return err
	})
	if err == nil || len(did) != 0 {
		t.Errorf("%v, done: %v", err, did)
	}
	err = inTx(func(tx *pg.Tx) error {
		after(tx, "first")
		undone := tx.InTx(patient(t), func(savepoint *pg.Tx) error {
			after(savepoint, "undone")
			_, err := savepoint.Exec(patient(t), `no statement`)
			return err
		})
		if undone == nil {
			t.Error("a savepoint that failed returned nil")
		}
		return tx.InTx(patient(t), func(savepoint *pg.Tx) error { after(savepoint, "second"); return nil })
	})
	if err != nil || strings.Join(did, " ") != "first second" {
		t.Errorf("%v, done: %v", err, did)
	}
}

// What is registered before a commit is called when all else is done, and not after a rollback.
func TestBeforeCommit(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t)})
	undo := errors.New("undo")
	var did []string
	before := func(tx *pg.Tx, what string) { tx.BeforeCommit(func() { did = append(did, what) }) }
	if err := db.InTx(patient(t), func(tx *pg.Tx) error { before(tx, "rolled back"); return undo }); err != undo || len(did) != 0 {
		t.Errorf("%v, done: %v", err, did)
	}
	err := db.InTx(patient(t), func(tx *pg.Tx) error {
		before(tx, "first")
		tx.AfterCommit(func() { did = append(did, "last") })
		_ = tx.InTx(patient(t), func(savepoint *pg.Tx) error { before(savepoint, "undone"); return undo })
		err := tx.InTx(patient(t), func(savepoint *pg.Tx) error { before(savepoint, "second"); return nil })
		did = append(did, "all else")
		return err
	})
	if err != nil || strings.Join(did, " ") != "all else first second last" {
		t.Errorf("%v, done: %v", err, did)
	}
}
