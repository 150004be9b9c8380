package message_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"plinth/internal/message"
	"plinth/internal/pg"
)

func TestLargeOperationHoldsItsLetters(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	ids := f.letters(t, q, 1001)
	op, _ := f.redrive(t, q, all, 0)
	if op.State != message.Running || op.Total != 1001 || op.Done != 0 {
		t.Errorf("%+v", op)
	}
	f.holds(t, q, 1001, 0)
	id := f.letter(t, q, "late", time.Now(), 1)
	purge, skipped, err := f.PurgeDeadLetters(within(t), q, message.Choice{IDs: []string{ids[5], ids[6], id}, DryRun: true})
	if err != nil || purge.Total != 1 || skipped != (message.Skipped{InOperation: 2}) {
		t.Errorf("by ids: %+v %+v %v", purge, skipped, err)
	}
	purge, skipped, err = f.PurgeDeadLetters(within(t), q, all)
	if err != nil || purge.Total != 1 || purge.Done != 1 || skipped != (message.Skipped{InOperation: 1001}) {
		t.Errorf("by filter: %+v %+v %v", purge, skipped, err)
	}
	f.work(t)
	f.holds(t, q, 0, 1001)
	if op := f.operation(t, op.ID); op.State != message.Done || op.Done != 1001 || op.Skipped != 0 || op.EndedAt.IsZero() {
		t.Errorf("%+v", op)
	}
	if n := f.count(t, `SELECT count(*) FROM dead_letter_operation_items WHERE operation_id = $1::text::uuid`, op.ID); n != 0 {
		t.Errorf("%d items are left", n)
	}
}

// TestTwoWorkers has two workers share a large redrive and a large purge. Each redriven message reaches the queue once.
func TestTwoWorkers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	f.letters(t, q, 2500)
	f.letters(t, other, 2500)
	redrive, _ := f.redrive(t, q, all, 0)
	purge, _, err := f.PurgeDeadLetters(within(t), other, all)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f.worker(t, time.Second) // Each has a relay.
	}
	for _, id := range []string{redrive.ID, purge.ID} {
		eventually(t, "the operation ends", func() bool { return f.operation(t, id).State == message.Done })
		if op := f.operation(t, id); op.Total != 2500 || op.Done != 2500 || op.Skipped != 0 {
			t.Errorf("%+v", op)
		}
	}
	var got message.Queue
	eventually(t, "all are in the queue", func() bool {
		got, err = f.GetQueue(within(t), q)
		return err == nil && got.Stats.Waiting == 0
	})
	if got.Stats.Depth != 2500 || got.Stats.DeadLetters != 0 {
		t.Errorf("%+v", got.Stats)
	}
	if got, err := f.GetQueue(within(t), other); err != nil || *got.Stats != (message.Stats{}) {
		t.Errorf("%+v %v", got.Stats, err)
	}
}

// TestWorkersDoNotWaitForEachOther steps an operation that another worker holds.
func TestWorkersDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 1001)
	f.redrive(t, q, all, 0)
	err := f.db.InTx(within(t), func(tx *pg.Tx) error {
		if _, err := tx.Exec(within(t), `SELECT FROM dead_letter_operations FOR UPDATE`); err != nil {
			return err
		}
		progress, err := f.StepAll(within(t))
		if progress {
			t.Error("both work at it")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.work(t)
	f.holds(t, q, 0, 1001)
}

// TestCrashesInALargeRedrive cuts the workers off at any moment.
func TestCrashesInALargeRedrive(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 2500)
	op, _ := f.redrive(t, q, all, 0)
	crashes := 0
	for patience := time.Millisecond; op.State == message.Running; patience += time.Millisecond {
		ctx, crash := context.WithTimeout(within(t), rand.N(patience))
		if _, err := f.StepAll(ctx); err != nil {
			crashes++
		}
		crash()
		var letters, waiting, done, skipped int
		err := f.db.QueryRow(within(t), `SELECT (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM message_waiting), done, skipped, state
			FROM dead_letter_operations`).Scan(&letters, &waiting, &done, &skipped, &op.State) // One statement: a worker that was cut off may still commit.
		if err != nil || letters+waiting != 2500 || done != waiting || skipped != 0 {
			t.Fatalf("%d dead letters and %d messages that wait, %d done and %d skipped, %v", letters, waiting, done, skipped, err)
		}
	}
	f.holds(t, q, 0, 2500)
	if crashes < 3 {
		t.Errorf("only %d crashes", crashes)
	}
}

func TestQueueDeletedInALargeRedrive(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 1500)
	op, _ := f.redrive(t, q, all, 0)
	if _, err := f.StepAll(within(t)); err != nil {
		t.Fatal(err)
	}
	done := f.operation(t, op.ID).Done
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	f.queue(t, "orders")
	f.letters(t, q, 7)
	f.work(t)
	if op := f.operation(t, op.ID); op.State != message.Done || op.Done != done || done == 0 || op.Skipped != 1500-done {
		t.Errorf("%+v, %d were done before", op, done)
	}
	f.holds(t, q, 7, 0)
}

// TestLimitOfALargeRedrive checks that a redrive keeps its rate over chunks and after pauses, and does not run far ahead of
// it.
func TestLimitOfALargeRedrive(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 2500)
	op, _ := f.redrive(t, q, all, 10)
	f.work(t)
	_, waiting := f.left(t, q)
	first, last, least := f.spacing(t, q)
	if waiting < 600 || waiting > 800 || first > 0 || least < 99*time.Millisecond || last < time.Duration(waiting-50)*100*time.Millisecond {
		t.Errorf("%d wait, due from %v to %v, %v apart or more", waiting, first, last, least)
	}
	// Nobody worked at it for a while. It does not make up for that.
	f.exec(t, `DELETE FROM message_waiting`)
	f.exec(t, `UPDATE dead_letter_operations SET next_due_at = now() - interval '1 hour'`)
	before := f.operation(t, op.ID).Done
	f.work(t)
	if first, _, least := f.spacing(t, q); first < -time.Minute || least < 99*time.Millisecond {
		t.Errorf("after a while due from %v, %v apart or more", first, least)
	}
	if op := f.operation(t, op.ID); op.State != message.Running || op.Done <= before {
		t.Errorf("%+v", op)
	}
	// A slow one does not run far ahead either.
	slow := f.queue(t, "slow")
	f.letters(t, slow, 1001)
	f.redrive(t, slow, all, 1)
	f.work(t)
	if _, waiting := f.left(t, slow); waiting < 60 || waiting > 120 {
		t.Errorf("%d of the slow ones wait", waiting)
	}
}

// TestOperationsDoNotHoldEachOtherUp has an operation that cannot continue.
func TestOperationsDoNotHoldEachOtherUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	f.letters(t, q, 1001)
	f.letters(t, other, 1001)
	stuck, _ := f.redrive(t, q, all, 0)
	f.redrive(t, other, all, 0)
	f.schema(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'`)
	f.schema(t, `CREATE TRIGGER refuse BEFORE INSERT ON message_waiting FOR EACH ROW WHEN (NEW.queue = 'orders') EXECUTE FUNCTION refuse()`)
	for range 10 { // Only one worker: of two, one might skip the stuck operation because the other holds it.
		if _, err := f.StepAll(within(t)); err == nil {
			t.Error("no error")
		}
	}
	f.holds(t, q, 1001, 0)
	f.holds(t, other, 0, 1001)
	if got := f.operation(t, stuck.ID); got.State != message.Running || got.Done != 0 {
		t.Errorf("%+v", got)
	}
}

// TestWorkersAtOneOperation has several workers at the same operation. Nothing is done twice.
func TestWorkersAtOneOperation(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 1001)
	op, _ := f.redrive(t, q, all, 0)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for f.operation(t, op.ID).State == message.Running && t.Context().Err() == nil {
				if _, err := f.StepAll(within(t)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	f.holds(t, q, 0, 1001)
	if got := f.operation(t, op.ID); got.State != message.Done || got.Done != 1001 || got.Skipped != 0 {
		t.Errorf("%+v", got)
	}
}
