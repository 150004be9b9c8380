package brokertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

func testCancel(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Publish(cancelled, broker.Address{Queue: queue}, Message("never mind")); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish: %v, want the context's error", err)
	}
	if _, err := c.Subscribe(cancelled, queue, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe: %v, want the context's error", err)
	}

	// The message of the cancelled Publish may have been kept, so the rest is on another queue.
	queue = Declare(t, c, broker.Queue{})
	sub := Subscribe(t, c, queue, 1)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(quiet, cancel)
	if err := receiveError(t, sub, ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Receive: %v, want the context's error", err)
	}
	Publish(t, c, queue, "next")
	if d := Receive(t, sub); string(d.Body) != "next" {
		t.Errorf("received %q, want the subscription to go on", d.Body)
	}
}

// receiveError returns the error of a Receive that must end by itself.
func receiveError(t *testing.T, sub broker.Subscription, ctx context.Context) error {
	t.Helper()
	got := make(chan error, 1)
	go func() {
		_, err := sub.Receive(ctx)
		got <- err
	}()
	select {
	case err := <-got:
		return err
	case <-time.After(Patience):
		t.Fatal("Receive did not end")
		return nil
	}
}

// testCutUnderLoad cuts a client that publishes and receives, and expects three things: each Publish ends, with nil or
// errs.Unavailable; publishing works again; and the existing subscription receives everything that was confirmed.
func testCutUnderLoad(t *testing.T, open Open) {
	const publishers, cuts, perCut = 16, 3, 300
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sub := Subscribe(t, c, queue, 50)

	var confirmed, received tally
	progress := make(chan struct{}, 1)
	publishing, stopPublishing := context.WithCancel(t.Context())
	defer stopPublishing()
	var publisherGroup, receiverGroup sync.WaitGroup
	for range publishers {
		publisherGroup.Go(func() {
			for publishing.Err() == nil {
				if m := Message("through cuts"); publishOnce(t, c, queue, m) {
					confirmed.add(m.ID)
					select {
					case progress <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	receiving, stopReceiving := context.WithCancel(t.Context())
	defer stopReceiving()
	receiverGroup.Go(func() {
		for {
			d, err := sub.Receive(receiving)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("Receive: %v, want the subscription to go on", err)
				}
				return
			}
			_ = d.Ack(receiving) // One that is lost with its connection comes again.
			received.add(d.ID)
		}
	})

	for i := range cuts + 1 {
		awaitConfirmed(t, &confirmed, progress, perCut*(i+1))
		if i < cuts {
			c.cut()
		}
	}
	stopPublishing()
	publisherGroup.Wait()
	missing := 0
	if !poll(t, func() bool { missing = confirmed.missingFrom(&received); return missing == 0 }) {
		t.Errorf("%d of %d confirmed messages were not delivered", missing, len(confirmed.ids))
	}
	stopReceiving()
	receiverGroup.Wait()
}

// publishOnce reports whether the message was confirmed. Publish gets no deadline: its own limit must suffice.
func publishOnce(t *testing.T, c client, queue string, m broker.Message) bool {
	began := time.Now()
	err := c.Publish(context.Background(), broker.Address{Queue: queue}, m)
	if took := time.Since(began); took > Patience {
		t.Errorf("Publish took %v", took)
	}
	if err != nil && !errs.Is(err, errs.Unavailable) {
		t.Errorf("Publish: %v, want nil or errs.Unavailable", err)
	}
	return err == nil
}

func awaitConfirmed(t *testing.T, confirmed *tally, progress <-chan struct{}, want int) {
	t.Helper()
	deadline := time.After(2 * Patience)
	for confirmed.len() < want {
		select {
		case <-progress:
		case <-deadline:
			t.Fatalf("publishing did not resume: %d confirmed, want %d", confirmed.len(), want)
		}
	}
}

func (s *tally) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids)
}

func (s *tally) missingFrom(other *tally) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for id := range s.ids {
		if !other.has(id) {
			n++
		}
	}
	return n
}

func testStaleDelivery(t *testing.T, open Open) {
	c, other := start(t, open), start(t, open)
	queue := Declare(t, other, broker.Queue{})
	sent := Publish(t, other, queue, "held through a cut")
	sub := Subscribe(t, c, queue, 1)
	stale := Receive(t, sub)
	wantMessage(t, stale.Message, sent[0])

	c.cut()
	again := Receive(t, sub)
	wantMessage(t, again.Message, sent[0])
	_ = stale.Ack(Patient(t))
	if err := insist(again.Nack); err != nil { // It may meet a connection that was cut too.
		t.Fatalf("Nack: %v", err)
	}

	// If the stale ack had ended the message or the subscription, the nack could not bring the message back.
	third := Receive(t, sub)
	wantMessage(t, third.Message, sent[0])
	_ = stale.Nack(Patient(t))
	ReceiveNothing(t, sub)
	Ack(t, third)
	Publish(t, c, queue, "after")
	if d := Receive(t, sub); string(d.Body) != "after" {
		t.Errorf("received %q, want the next message", d.Body)
	}
}

// testAttempts cuts deliveries short in every possible way. Each must count as an attempt, so that it is visible if handling
// a message kills the process.
func testAttempts(t *testing.T, open Open) {
	c, dying, other := start(t, open), start(t, open), start(t, open)
	queue := Declare(t, other, broker.Queue{})
	sent := Publish(t, other, queue, "comes again and again")
	want := func(sub broker.Subscription, attempt int, after string) {
		t.Helper()
		d := Receive(t, sub)
		wantMessage(t, d.Message, sent[0])
		if d.Attempt != attempt {
			t.Errorf("attempt is %d after %s, want %d", d.Attempt, after, attempt)
		}
	}

	sub := Subscribe(t, c, queue, 1)
	want(sub, 1, "publishing")
	c.cut()
	want(sub, 2, "a cut")
	c.cut()
	want(sub, 3, "another cut")
	sub.Close()
	want(Subscribe(t, dying, queue, 1), 4, "Close")
	dying.stop()
	last := Subscribe(t, other, queue, 1)
	want(last, 5, "the end of Run")
}

func testPingAfterCut(t *testing.T, open Open) {
	c := start(t, open)
	var last error
	pings := func() bool { last = c.Ping(Patient(t)); return last == nil }
	if !poll(t, pings) {
		t.Fatalf("Ping: %v, want nil once the broker runs", last)
	}
	c.cut()
	if !poll(t, pings) {
		t.Fatalf("Ping: %v, want nil again after a cut", last)
	}
	// The first nil may be from before the loss was noticed, so what uses the connection may fail once more.
	queue := QueueName(t, c)
	if !poll(t, func() bool { last = c.Declare(Patient(t), broker.Queue{Name: queue}); return last == nil }) {
		t.Fatalf("Declare: %v, want nil again after a cut", last)
	}
}

func testRunEnds(t *testing.T, open Open) {
	c, other := start(t, open), start(t, open)
	queue := Declare(t, other, broker.Queue{})
	Publish(t, other, queue, "one")
	sub := Subscribe(t, c, queue, 1)
	held := Receive(t, sub)
	ended := make(chan error, 1)
	go func() {
		_, err := sub.Receive(context.Background())
		ended <- err
	}()

	c.stop()
	select {
	case err := <-ended:
		if !errs.Is(err, errs.Unavailable) {
			t.Errorf("Receive: %v, want errs.Unavailable", err)
		}
	case <-time.After(Patience):
		t.Error("Receive did not end with Run")
	}
	if err := c.Publish(Patient(t), broker.Address{Queue: queue}, Message("late")); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Publish: %v, want errs.Unavailable", err)
	}
	if _, err := c.Subscribe(Patient(t), queue, 1); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Subscribe: %v, want errs.Unavailable", err)
	}
	if err := c.Ping(Patient(t)); err == nil {
		t.Error("Ping: nil, want an error")
	}
	_ = held.Ack(Patient(t)) // Too late.
	wantMessage(t, Receive(t, Subscribe(t, other, queue, 1)).Message, held.Message)
}
