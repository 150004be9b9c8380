package postgres

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

func TestExpiredMessagesAreDeleted(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	brief := brokertest.Declare(t, b, broker.Queue{MessageTTL: 500 * time.Millisecond})
	sub := subscribe(t, b, brief, 1)
	publish(t, b, brief, "outstanding")
	d := receive(t, sub)
	publish(t, b, declare(t, b), "forever")
	batch := make([]broker.Publication, expireBatch+1)
	for i := range batch {
		batch[i] = broker.Publication{To: broker.Address{Queue: brief}, Message: message(strconv.Itoa(i))}
	}
	for _, err := range b.PublishBatch(patient(t), batch) {
		if err != nil {
			t.Fatal(err)
		}
	}
	brokertest.Eventually(t, "only what is outstanding or does not expire is left", func() bool {
		return slices.Equal(bodies(t, b), []string{"forever", "outstanding"})
	})
	if err := d.Ack(patient(t)); err != nil {
		t.Errorf("Ack of what expired while it was outstanding: %v", err)
	}
}

// bodies returns the bodies of the messages in the database.
func bodies(t *testing.T, b *Broker) (all []string) {
	t.Helper()
	err := b.db.QueryRow(patient(t), `
		SELECT coalesce(array_agg(convert_from(body, 'UTF8') ORDER BY body), '{}') FROM broker_messages`).Scan(&all)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// One publisher alone does not pass the limit at all, not even with one batch.
func TestMaxLengthIsExactForOnePublisher(t *testing.T) {
	t.Parallel()
	const length = 10
	b, _ := start(t, pgtest.New(t), lease)
	small := brokertest.Declare(t, b, broker.Queue{MaxLength: length})
	publish(t, b, small, "the first")
	batch := make([]broker.Publication, 2*length)
	for i := range batch {
		batch[i] = broker.Publication{To: broker.Address{Queue: small}, Message: message(strconv.Itoa(i))}
	}
	for i, err := range b.PublishBatch(patient(t), batch) {
		if i < length-1 && err != nil || i >= length-1 && !errors.Is(err, broker.ErrFull) {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if n, err := b.Ready(patient(t), small); n != length || err != nil {
		t.Errorf("Ready: %d, %v, want %d", n, err, length)
	}
}

func TestExpiredMessagesTakeNoRoom(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	small := brokertest.Declare(t, b, broker.Queue{MaxLength: 1, MessageTTL: time.Hour})
	publish(t, b, small, "old")
	if _, err := b.db.Exec(patient(t), `UPDATE broker_messages SET expires_at = now()`); err != nil {
		t.Fatal(err)
	}
	publish(t, b, small, "young")
}

func TestPurgeAndDeleteWorkInBatches(t *testing.T) {
	t.Parallel()
	const many = 2*purgeBatch + 1
	b, _ := start(t, pgtest.New(t), lease)
	for _, how := range []string{"Purge", "Delete"} {
		queue := declare(t, b)
		publish(t, b, queue, "outstanding")
		sub := subscribe(t, b, queue, 1)
		d := receive(t, sub)
		_, err := b.db.Exec(patient(t), `
			INSERT INTO broker_messages (queue_id, tenant, id, attributes, body)
			SELECT id, tenant, gen_random_uuid(), '{}', 'x' FROM broker_queues, generate_series(1, $2) WHERE name = $1`, queue, many)
		if err != nil {
			t.Fatal(err)
		}
		if how == "Delete" {
			if err := b.Delete(patient(t), queue); err != nil || len(bodies(t, b)) > 0 {
				t.Errorf("Delete: %v, and the database holds %d messages, want none", err, len(bodies(t, b)))
			}
			continue
		}
		if n, err := b.Purge(patient(t), queue); n != many || err != nil {
			t.Errorf("Purge: %d, %v, want %d", n, err, many)
		}
		if err := d.Ack(patient(t)); err != nil {
			t.Errorf("Ack of what was outstanding: %v", err)
		}
	}
}

func TestDeclareSaysWhatIsFixed(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := broker.Queue{Name: "default.fixed", MessageTTL: 90*time.Second + time.Millisecond + time.Microsecond, MaxLength: 7}
	for range 2 {
		if err := b.Declare(patient(t), queue); err != nil {
			t.Fatalf("Declare: %v", err)
		}
	}
	queue.MaxLength = 8
	err := b.Declare(patient(t), queue)
	const want = "the queue has a message_ttl of 1m30.001s and a max_length of 7 (0 is none), which are fixed when it is made"
	if !errs.Is(err, errs.FailedPrecondition) || err.Error() != want {
		t.Errorf("Declare otherwise: %v, want errs.FailedPrecondition: %s", err, want)
	}
}
