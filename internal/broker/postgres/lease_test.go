package postgres

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

const killedLease = time.Second

// holdAndHang is the main function of the process that is killed. It leases two messages, receives one, reports that, and
// never returns.
func holdAndHang() {
	ctx := context.Background()
	databaseURL := os.Getenv("HOLD_URL")
	db, err := pg.Open(ctx, pg.Config{URL: databaseURL})
	if err != nil {
		panic(err)
	}
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: databaseURL, Log: zap.NewNop()})
	if err != nil {
		panic(err)
	}
	b := New(db.System(), notifier, zap.NewNop())
	b.lease = killedLease
	go notifier.Run(ctx)
	go func() { panic(b.Run(ctx)) }()
	sub, err := b.Subscribe(ctx, os.Getenv("HOLD_QUEUE"), 2)
	if err != nil {
		panic(err)
	}
	if _, err := sub.Receive(ctx); err != nil {
		panic(err)
	}
	fmt.Println("holding")
	select {}
}

// Both messages have an attempt before the process leases them. Only the one that the process receives gets another one.
func TestMessagesOfAKilledProcessComeBack(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	b, _ := start(t, databaseURL, lease)
	queue := declare(t, b)
	publish(t, b, queue, "received", "buffered")
	before := subscribe(t, b, queue, 2)
	receive(t, before)
	receive(t, before)
	before.Close()

	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "HOLD_URL="+databaseURL, "HOLD_QUEUE="+queue)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "holding\n" {
		t.Fatalf("the other process said %q: %v", line, err)
	}
	sub := subscribe(t, b, queue, 2)
	receiveNothing(t, sub, 2*killedLease) // The process lives, and renews its leases.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	got := map[string]int{}
	for range 2 {
		d := receive(t, sub)
		got[string(d.Body)] = d.Attempt
	}
	if want := map[string]int{"received": 3, "buffered": 2}; !maps.Equal(got, want) {
		t.Errorf("received attempts %v, want %v", got, want)
	}
}

func TestLongRunningDeliveryKeepsItsLease(t *testing.T) {
	t.Parallel()
	const short = 600 * time.Millisecond
	databaseURL := pgtest.New(t)
	b, _ := start(t, databaseURL, short)
	other, _ := start(t, databaseURL, lease)
	queue := declare(t, b)
	publish(t, b, queue, "slow", "buffered")
	sub := subscribe(t, b, queue, 2)
	slow := receive(t, sub)
	elsewhere := subscribe(t, other, queue, 2)
	receiveNothing(t, elsewhere, 4*short)
	for _, d := range []broker.Delivery{slow, receive(t, sub)} {
		if err := d.Ack(patient(t)); err != nil {
			t.Errorf("Ack: %v", err)
		}
	}
}

// An ack that waits for the renewal of its own lease, or for the count of an attempt, succeeds.
func TestAckDuringARenewal(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	owner := pgtest.Owner(t, databaseURL)
	b, _ := start(t, databaseURL, lease)
	queue := declare(t, b)
	publish(t, b, queue, "a")
	sub := subscribe(t, b, queue, 1)
	d := receive(t, sub)
	acked := make(chan error, 1)
	if err := b.db.InTx(patient(t), func(tx *pg.Tx) error {
		if _, err := tx.Exec(patient(t), `UPDATE broker_messages SET available_at = available_at + interval '1 s'`); err != nil {
			return err
		}
		go func() { acked <- d.Ack(patient(t)) }()
		for ctx := patient(t); ; <-time.After(5 * time.Millisecond) {
			var waits bool
			err := owner.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
				AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM broker_messages%')`).Scan(&waits)
			if waits || err != nil {
				return err
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-acked; err != nil {
		t.Errorf("Ack: %v", err)
	}
}

func TestSettlementAfterALostLeaseIsHarmless(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	b, _ := start(t, databaseURL, lease)
	other, _ := start(t, databaseURL, lease)
	queue := declare(t, b)
	publish(t, b, queue, "acked late", "nacked late")
	sub := subscribe(t, b, queue, 2)
	lateAck, lateNack := receive(t, sub), receive(t, sub)

	if _, err := b.db.Exec(patient(t), `UPDATE broker_messages SET available_at = now()`); err != nil {
		t.Fatal(err)
	}
	other.returnLapsed(patient(t)) // Before b renews them.
	elsewhere := subscribe(t, other, queue, 2)
	newer := []broker.Delivery{receive(t, elsewhere), receive(t, elsewhere)}
	if err := lateAck.Ack(patient(t)); !errs.Is(err, errs.Aborted) {
		t.Errorf("late Ack: %v, want errs.Aborted", err)
	}
	if err := lateNack.Nack(patient(t)); err != nil {
		t.Errorf("late Nack: %v", err)
	}
	b.renewHeld(patient(t))
	if n, err := b.Ready(patient(t), queue); n != 0 || err != nil {
		t.Errorf("Ready: %d, %v, want both messages still leased", n, err)
	}
	for _, d := range newer {
		if err := d.Ack(patient(t)); err != nil {
			t.Errorf("Ack of the newer delivery: %v", err)
		}
	}
}

func TestAttemptCountsOnlyWhatWasReceived(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	publish(t, b, queue, "received", "buffered")
	sub := subscribe(t, b, queue, 2)
	receive(t, sub)
	sub.Close()
	sub = subscribe(t, b, queue, 2)
	for _, want := range []int{2, 1} {
		if d := receive(t, sub); d.Attempt != want {
			t.Errorf("%q: attempt is %d, want %d", d.Body, d.Attempt, want)
		}
	}
}

// A delivery that loses its lease while it waits in the buffer is not received.
func TestBufferedDeliveryThatLostItsLeaseIsNotReceived(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	b, _ := start(t, databaseURL, lease)
	queue := declare(t, b)
	publish(t, b, queue, "moves on")
	sub := subscribe(t, b, queue, 1)
	if err := receive(t, sub).Nack(patient(t)); err != nil {
		t.Fatal(err)
	}
	brokertest.WantReady(t, b, queue, 0) // It is in the buffer again.
	if _, err := b.db.Exec(patient(t), `UPDATE broker_messages SET available_at = now()`); err != nil {
		t.Fatal(err)
	}
	other, _ := start(t, databaseURL, time.Second) // It looks for leases that ran out before the first one renews them.
	if d := receive(t, subscribe(t, other, queue, 1)); d.Attempt != 2 {
		t.Errorf("attempt is %d, want 2", d.Attempt)
	}
	receiveNothing(t, sub, 100*time.Millisecond)
}

// A claim can succeed in the database although its reply is lost.
func TestClaimInDoubtIsGivenBack(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	publish(t, b, queue, "one")
	id, err := findQueue(patient(t), b.db, queue)
	if err != nil {
		t.Fatal(err)
	}
	const lost = "0198c0de-0000-7000-8000-000000000000"
	if _, err := claimMessages(patient(t), b.db, claim{queue: id, limit: 1, atLeastOne: true, lease: lost, duration: lease}); err != nil {
		t.Fatal(err)
	}
	sub := newSubscription(b, &line{}, id, 1)
	sub.doubt = lost
	go sub.run()
	t.Cleanup(sub.Close)
	if d := receive(t, sub); string(d.Body) != "one" || d.Attempt != 1 {
		t.Errorf("received %q, attempt %d, want the first attempt of what the lost claim had", d.Body, d.Attempt)
	}
}
