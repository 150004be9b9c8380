package lock_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/lock"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

func TestWith(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	wrong := errors.New("wrong")
	var first int64
	err := n.With(ctx, "a", func(ctx context.Context, token int64) error {
		first = token
		if _, err := n.Acquire(ctx, request(t, "two")); !errs.Is(err, errs.Aborted) {
			t.Errorf("somebody else: %v", err)
		}
		if err := n.With(ctx, "a", nil, lock.Wait(0)); !errs.Is(err, errs.Aborted) {
			t.Errorf("without a wait: %v", err)
		}
		return wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = n.With(ctx, "a", func(_ context.Context, token int64) error {
			if token <= first {
				t.Errorf("token %d after %d", token, first)
			}
			panic("boom")
		})
	}()
	var inside context.Context
	if err := n.With(ctx, "a", func(ctx context.Context, _ int64) error { inside = ctx; return nil }, lock.Wait(0)); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	if inside.Err() == nil {
		t.Error("the context outlives With")
	}
	if err := n.With(ctx, "", nil); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("%v", err)
	}
}

// A lease outlasts its TTL as long as it is renewed, and a lock that is released by force is lost.
func TestWithRenews(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	err := n.With(ctx, "a", func(ctx context.Context, _ int64) error {
		before := scalar[time.Time](t, databaseURL, `SELECT expires_at FROM locks`)
		until(t, "it is renewed twice its TTL", func() bool {
			return scalar[time.Time](t, databaseURL, `SELECT expires_at FROM locks`).Sub(before) > 2*time.Second
		})
		return ctx.Err()
	}, lock.TTL(time.Second))
	if err != nil {
		t.Errorf("%v", err)
	}
}

// The lease is counted from when the question was sent, however long the answer took.
func TestEndIsCountedFromTheQuestion(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	n.release(t, ctx, n.acquire(t, ctx, request(t, "one")))
	exec(t, databaseURL, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.owner = 'slow' THEN PERFORM pg_sleep(1.5); END IF; RETURN NEW; END $$;
		CREATE TRIGGER slow AFTER UPDATE ON locks FOR EACH ROW EXECUTE FUNCTION slow()`)
	r := request(t, "slow")
	r.TTL = 2 * time.Second
	sent := time.Now()
	l := n.acquire(t, ctx, r)
	if time.Since(sent) < 1500*time.Millisecond || l.End.Sub(sent) > 2100*time.Millisecond {
		t.Errorf("the answer took %v, and the lease ends %v after the question", time.Since(sent), l.End.Sub(sent))
	}
}

// While the lease cannot be renewed it is tried again, and its context ends in time if that does not help.
func TestRenewalFails(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	exec(t, databaseURL, `CREATE SEQUENCE renewals; CREATE TABLE failing (first bigint, last bigint); INSERT INTO failing VALUES (0, 0);
		GRANT ALL ON failing, renewals TO PUBLIC;
		CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n bigint := nextval('renewals'); BEGIN
			IF n BETWEEN (SELECT first FROM failing) AND (SELECT last FROM failing) THEN RAISE 'crash' USING ERRCODE = '57P01'; END IF;
			RETURN NEW; END $$;
		CREATE TRIGGER fail BEFORE UPDATE ON locks FOR EACH ROW WHEN (OLD.lease_id = NEW.lease_id) EXECUTE FUNCTION fail()`)
	exec(t, databaseURL, `UPDATE failing SET first = 1, last = 2`)
	err := n.With(ctx, "a", func(ctx context.Context, _ int64) error {
		until(t, "it is renewed after two failures", func() bool {
			return ctx.Err() != nil || scalar[int](t, databaseURL, `SELECT last_value FROM renewals`) >= 4
		})
		return ctx.Err()
	}, lock.TTL(6*time.Second))
	if err != nil {
		t.Fatalf("two failures: %v", err)
	}
	exec(t, databaseURL, `UPDATE failing SET last = 1000`)
	began := time.Now()
	err = n.With(ctx, "a", func(ctx context.Context, _ int64) error {
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), lock.ErrLost) {
			t.Errorf("cause: %v", context.Cause(ctx))
		}
		return ctx.Err()
	}, lock.TTL(2*time.Second))
	if took := time.Since(began); !isLost(err) || took < 1500*time.Millisecond {
		t.Errorf("%v after %v", err, took)
	}
}

// A function that returns after its lease ended is told, though nobody else knows.
func TestLeaseEndsBeforeItsWork(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	err := n.With(ctx, "a", func(ctx context.Context, _ int64) error {
		exec(t, databaseURL, `UPDATE locks SET expires_at = now()`)
		<-ctx.Done()
		return nil
	}, lock.TTL(time.Second))
	if !isLost(err) {
		t.Errorf("%v", err)
	}
}

// Nobody takes the lock between Guard and the commit, even if the lease ends in between.
func TestGuard(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	exec(t, databaseURL, `CREATE TABLE results (token bigint); GRANT ALL ON results TO PUBLIC`)
	insert := func(ctx context.Context, tx *pg.Tx, token int64) error {
		_, err := tx.Exec(ctx, `INSERT INTO results VALUES ($1)`, token)
		return err
	}
	results := make(chan result)
	var committed atomic.Bool
	err := n.With(ctx, "a", func(within context.Context, token int64) error {
		n.wait(t, ctx, results, request(t, "two"))
		return n.db.InTx(ctx, func(tx *pg.Tx) error {
			if err := insert(ctx, tx, token); err != nil {
				return err
			}
			if err := lock.Guard(within, tx); err != nil {
				return err
			}
			<-within.Done() // Its renewals wait for the commit.
			time.Sleep(500 * time.Millisecond)
			if rows := scalar[int](t, databaseURL, `SELECT count(*) FROM locks WHERE token = $1`, token); rows != 1 {
				t.Error("somebody took the lock")
			}
			committed.Store(true)
			return nil
		})
	}, lock.TTL(2*time.Second))
	if !isLost(err) { // It cannot know that what it did is committed.
		t.Fatal(err)
	}
	if two := <-results; two.err != nil || !committed.Load() {
		t.Errorf("%+v, committed %t", two, committed.Load())
	}
	if rows := scalar[int](t, databaseURL, `SELECT count(*) FROM results`); rows != 1 {
		t.Errorf("%d rows", rows)
	}
}

func TestGuardRefuses(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	guard := func(within context.Context) error {
		return n.db.InTx(ctx, func(tx *pg.Tx) error { return lock.Guard(within, tx) })
	}
	if err := guard(ctx); err == nil || isLost(err) {
		t.Errorf("outside of With: %v", err)
	}
	for what, end := range map[string]func(){
		"taken over":      func() { exec(t, databaseURL, `UPDATE locks SET lease_id = gen_random_uuid() WHERE name = 'outer'`) },
		"ended":           func() { exec(t, databaseURL, `UPDATE locks SET expires_at = now() WHERE name = 'outer'`) },
		"gone":            func() { exec(t, databaseURL, `DELETE FROM locks WHERE name = 'outer'`) },
		"forced to leave": func() { _, _ = n.ForceRelease(ctx, name(t, "outer"), "test") },
	} {
		err := n.With(ctx, "outer", func(within context.Context, _ int64) error {
			return n.With(within, "inner", func(within context.Context, _ int64) error {
				if err := guard(within); err != nil {
					t.Errorf("%s: both are valid: %v", what, err)
				}
				end()
				err := guard(within)
				if within.Err() == nil {
					t.Errorf("%s: the context goes on", what)
				}
				return err
			})
		})
		if !isLost(err) {
			t.Errorf("%s: %v", what, err)
		}
		exec(t, databaseURL, `DELETE FROM locks`)
	}
}

// Leases are renewed together.
func TestRenewalsAreBatched(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	exec(t, databaseURL, `CREATE SEQUENCE statements; GRANT ALL ON statements TO PUBLIC;
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('statements'); RETURN NULL; END $$`)
	const leases = 50
	ready, done := make(chan struct{}, leases), make(chan error, leases)
	end := make(chan struct{})
	for i := range leases {
		go func() {
			done <- n.With(ctx, "lock "+string(rune('A'+i)), func(ctx context.Context, _ int64) error {
				ready <- struct{}{}
				select {
				case <-end:
				case <-ctx.Done():
				}
				return ctx.Err()
			}, lock.TTL(6*time.Second))
		}()
	}
	for range leases {
		<-ready
	}
	exec(t, databaseURL, `CREATE TRIGGER note AFTER UPDATE ON locks FOR EACH STATEMENT EXECUTE FUNCTION note()`)
	before := scalar[time.Time](t, databaseURL, `SELECT max(expires_at) FROM locks`)
	until(t, "all are renewed", func() bool {
		return scalar[int](t, databaseURL, `SELECT count(*) FROM locks WHERE expires_at > $1`, before) == leases
	})
	if n := scalar[int](t, databaseURL, `SELECT last_value FROM statements`); n > leases/2 {
		t.Errorf("%d statements for %d leases", n, leases)
	}
	close(end)
	for range leases {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
