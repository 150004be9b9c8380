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
		"another key": publish(message.ToQueue(q), "l"), "another queue": publish(message.ToQueue(other), "k"),
		"a topic of the same name": publish(topic(t, "orders", ""), "k"),
	} {
		if receipt.Duplicate {
			t.Errorf("%s is a duplicate", what)
		}
	}
	if receipt := publish(topic(t, "orders", "other.key"), "k"); !receipt.Duplicate {
		t.Error("a topic's keys are not apart by routing key")
	}
	if n := f.waiting(t); n != 4 {
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
