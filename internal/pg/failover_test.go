package pg_test

import (
	"sync"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// TestFailover has the standby take over while the primary goes on without writes, as the old one does behind many
// addresses. One call finds that out, and the connections of the whole pool lead to the new primary afterwards.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := pgtest.NewServer(t)
	standby := primary.Follow(t)
	db := open(t, pg.Config{URL: pgtest.Hosts(t, standby, primary), MaxConns: 8})
	write := func() error {
		_, err := db.Exec(patient(t), `INSERT INTO queues (name) VALUES (gen_random_uuid()::text)`)
		return err
	}
	var warming sync.WaitGroup
	for range 8 {
		warming.Go(func() {
			if err := db.InTx(patient(t), func(tx *pg.Tx) error { _, err := tx.Exec(patient(t), `SELECT pg_sleep(0.2)`); return err }); err != nil {
				t.Error(err)
			}
		})
	}
	warming.Wait()
	if err := write(); err != nil {
		t.Fatalf("the primary is the second host: %v", err)
	}
	if err := db.Writable(patient(t)); err != nil {
		t.Fatal(err)
	}

	primary.Demote(t)
	if err := db.Writable(patient(t)); err != pg.ErrReadOnly {
		t.Errorf("after the primary became read-only: %v", err)
	}
	if err := write(); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a write without a primary: %v, want errs.Unavailable", err)
	}
	if err := write(); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a new connection without a primary: %v, want errs.Unavailable", err)
	}
	standby.Promote(t, primary)
	for i := range 16 {
		if err := write(); err != nil {
			t.Errorf("write %d after the failover: %v", i, err)
		}
	}

	standby.Demote(t)
	primary.Recover(t)
	if err := write(); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a write to what is read-only: %v, want errs.Unavailable", err)
	}
	if err := write(); err != nil {
		t.Errorf("after the failover back: %v", err)
	}
	standby.Close()
	for deadline := time.Now().Add(patience); write() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("no write succeeds with one of two hosts")
		}
	}
}
