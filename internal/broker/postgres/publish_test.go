package postgres

import (
	"context"
	"testing"

	"plinth/internal/broker"
	"plinth/internal/pg/pgtest"
)

// A relay publishes batches that may take long. Here one waits for a row that somebody has locked.
func TestBatchesDoNotHoldUpSingleMessages(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	owner := pgtest.Owner(t, databaseURL)
	b, _ := start(t, databaseURL, lease)
	free, locked := declare(t, b), "default.locked"
	if err := b.Declare(patient(t), broker.Queue{Name: locked, MaxLength: 10}); err != nil {
		t.Fatal(err)
	}
	tx, err := owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), `SELECT FROM broker_queues WHERE name = $1 FOR UPDATE`, locked); err != nil {
		t.Fatal(err)
	}
	published := make(chan error, 1)
	go func() {
		published <- b.PublishBatch(patient(t), []broker.Publication{{To: broker.Address{Queue: locked}, Message: message("waits")}})[0]
	}()
	watcher := pgtest.Owner(t, databaseURL)
	ctx := patient(t)
	for waits := false; !waits; {
		if err := watcher.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event_type = 'Lock' AND query LIKE '%WITH target AS%')`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, b, free, "passes")
	select {
	case err := <-published:
		t.Fatalf("the batch did not wait: %v", err)
	default:
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-published; err != nil {
		t.Error(err)
	}
}

// How a message is committed is seen by a trigger at the commit.
func TestStoredMessagesDoNotWaitForTheDisk(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	owner := pgtest.Owner(t, databaseURL)
	if _, err := owner.Exec(t.Context(), `
		CREATE TABLE commits (setting text);
		CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
			$$ BEGIN INSERT INTO commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER note AFTER INSERT ON broker_messages DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION note_commit()`); err != nil {
		t.Fatal(err)
	}
	b, _ := start(t, databaseURL, lease)
	queue := declare(t, b)
	commits := func(messages ...broker.Publication) (settings string) {
		t.Helper()
		for _, err := range b.PublishBatch(patient(t), messages) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := owner.QueryRow(patient(t), `WITH gone AS (DELETE FROM commits RETURNING setting)
			SELECT string_agg(DISTINCT setting, ' ') FROM gone`).Scan(&settings); err != nil {
			t.Fatal(err)
		}
		return settings
	}
	one := func(stored bool) broker.Publication {
		return broker.Publication{To: broker.Address{Queue: queue}, Message: message("one"), Stored: stored}
	}
	if got := commits(one(true), one(true)); got != "off" {
		t.Errorf("stored elsewhere: %q, want off", got)
	}
	if got := commits(one(true), one(false)); got != "on" {
		t.Errorf("one of them is not stored elsewhere: %q, want on", got)
	}
}
