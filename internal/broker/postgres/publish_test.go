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
