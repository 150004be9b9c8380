package message_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), name(t, "news")
	policy := message.Policy{Bindings: []message.Binding{{Topic: "orders", Pattern: "#"}}}
	if _, err := f.CreateQueue(within(t), other, policy); err != nil {
		t.Fatal(err)
	}
	publish := func(to message.Destination, key string) message.Receipt {
		t.Helper()
		receipt, err := f.Publish(within(t), message.Publication{To: to, IdempotencyKey: key, Delay: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return receipt
	}
	first := publish(message.ToQueue(q), "k")
	if first.Duplicate {
		t.Error("the first is a duplicate")
	}
	if again := publish(message.ToQueue(q), "k"); !again.Duplicate || again.ID != first.ID {
		t.Errorf("%+v, want the id %s", again, first.ID)
	}
	for what, receipt := range map[string]message.Receipt{
		"another key": publish(message.ToQueue(q), "l"), "a topic": publish(topic(t, "orders", ""), "m"),
	} {
		if receipt.Duplicate {
			t.Errorf("%s is a duplicate", what)
		}
	}
	if n := f.waiting(t); n != 3 {
		t.Errorf("%d messages wait", n)
	}
	f.exec(t, `UPDATE message_keys SET created_at = now() - interval '23 hours 59 minutes'`)
	if receipt := publish(message.ToQueue(q), "k"); !receipt.Duplicate {
		t.Error("the key has expired too early")
	}
	f.exec(t, `UPDATE message_keys SET created_at = now() - interval '24 hours'`)
	second := publish(message.ToQueue(q), "k")
	if second.Duplicate || second.ID == first.ID {
		t.Errorf("%+v after a day", second)
	}
	if again := publish(message.ToQueue(q), "k"); !again.Duplicate || again.ID != second.ID {
		t.Errorf("%+v, want the id %s", again, second.ID)
	}
	// A key that was refused, or rolled back, was not used.
	if _, err := f.Publish(within(t), message.Publication{To: message.ToQueue(name(t, "none")), IdempotencyKey: "n"}); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	_ = f.db.InTx(within(t), func(tx *pg.Tx) error {
		if _, err := f.PublishTx(within(t), tx, message.Publication{To: message.ToQueue(q), IdempotencyKey: "n"}); err != nil {
			t.Error(err)
		}
		return errors.New("undo")
	})
	if receipt := publish(message.ToQueue(q), "n"); receipt.Duplicate {
		t.Error("a key whose message was rolled back is used")
	}
}

func TestIdempotencyKeysAtTheSameTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	var originals atomic.Int32
	var ids sync.Map
	var group sync.WaitGroup
	for n := range 20 {
		group.Go(func() {
			batch := []message.Publication{{IdempotencyKey: "a"}, {IdempotencyKey: "b"}, {IdempotencyKey: "a"}}
			if n%2 == 1 {
				batch[0], batch[1] = batch[1], batch[0]
			}
			for i := range batch {
				batch[i].To = message.ToQueue(q)
			}
			for i, r := range f.PublishBatch(within(t), batch) {
				if r.Err != nil {
					t.Error(r.Err)
				}
				if !r.Duplicate {
					originals.Add(1)
				}
				if id, _ := ids.LoadOrStore(batch[i].IdempotencyKey, r.ID); id != r.ID {
					t.Errorf("two ids for one key: %s %s", id, r.ID)
				}
			}
		})
	}
	group.Wait()
	if originals.Load() != 2 || f.waiting(t) != 2 {
		t.Errorf("%d messages published, %d wait, want one a key", originals.Load(), f.waiting(t))
	}
}

// Publishers with keys hold no lock on the row of their queue, which would become a MultiXact of all of them, and still keep the
// queue from being deleted under them.
func TestKeyedPublishesLeaveTheQueueAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	inserted, commit := make(chan struct{}), make(chan struct{})
	published := make(chan error, 1)
	go func() {
		published <- f.db.InTx(within(t), func(tx *pg.Tx) error {
			_, err := f.PublishTx(within(t), tx, message.Publication{To: message.ToQueue(q), IdempotencyKey: "k"})
			close(inserted)
			<-commit
			return err
		})
	}()
	<-inserted
	deleted := make(chan error, 1)
	go func() { deleted <- f.DeleteQueue(within(t), q) }()
	select {
	case err := <-deleted:
		t.Errorf("deleted under a publisher: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	var lockers string
	if err := f.system.QueryRow(within(t), `SELECT xmax::text FROM queues WHERE name = 'orders'`).Scan(&lockers); err != nil || lockers != "0" {
		t.Errorf("the row of the queue is locked by %s, %v", lockers, err)
	}
	close(commit)
	if err := <-published; err != nil {
		t.Error(err)
	}
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	if n := f.waiting(t); n != 0 {
		t.Errorf("%d messages of a deleted queue wait", n)
	}
}
