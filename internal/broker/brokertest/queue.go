package brokertest

import (
	"errors"
	"testing"

	"plinth/internal/broker"
)

func testUnknownQueue(t *testing.T, open Open) {
	c := start(t, open)
	queue := queueName(t, c)

	if err := c.Publish(patient(t), queue, message("lost")); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Publish: %v, want ErrNoQueue", err)
	}
	if _, err := c.Ready(patient(t), queue); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Ready: %v, want ErrNoQueue", err)
	}
	if _, err := c.Subscribe(patient(t), queue, 1); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Subscribe: %v, want ErrNoQueue", err)
	}
	if err := c.Delete(patient(t), queue); err != nil {
		t.Errorf("Delete: %v, want nil", err)
	}

	if err := c.Declare(patient(t), queue); err != nil {
		t.Fatalf("Declare: %v", err)
	}
	sub := subscribe(t, c, queue, 1)
	receiveNothing(t, sub)
	publish(t, c, queue, "kept")
	if d := receive(t, sub); string(d.Body) != "kept" {
		t.Errorf("received %q, want the message that was published after Declare", d.Body)
	}
}

func testDeclareTwice(t *testing.T, open Open) {
	c := start(t, open)
	queue := declare(t, c)
	sent := publish(t, c, queue, "one")

	if err := c.Declare(patient(t), queue); err != nil {
		t.Fatalf("Declare again: %v", err)
	}
	wantReady(t, c, queue, 1)
	wantMessage(t, receive(t, subscribe(t, c, queue, 1)).Message, sent[0])
}

func testDelete(t *testing.T, open Open) {
	c, other := start(t, open), start(t, open)
	queue := declare(t, c)
	sub := subscribe(t, c, queue, 1)
	elsewhere := subscribe(t, other, queue, 1)
	publish(t, c, queue, "one", "two", "three")
	receive(t, sub)
	receive(t, elsewhere)

	if err := c.Delete(patient(t), queue); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	for _, s := range []broker.Subscription{sub, elsewhere, sub} {
		if d, err := s.Receive(patient(t)); !errors.Is(err, broker.ErrNoQueue) {
			t.Errorf("Receive: message %q and error %v, want ErrNoQueue", d.ID, err)
		}
	}
	if err := c.Publish(patient(t), queue, message("late")); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Publish: %v, want ErrNoQueue", err)
	}

	if err := c.Declare(patient(t), queue); err != nil {
		t.Fatalf("Declare after Delete: %v", err)
	}
	receiveNothing(t, subscribe(t, c, queue, 1))
}

func testReady(t *testing.T, open Open) {
	c := start(t, open)
	queue := declare(t, c)
	wantReady(t, c, queue, 0)
	publish(t, c, queue, "one", "two", "three", "four")
	wantReady(t, c, queue, 4)

	sub := subscribe(t, c, queue, 3)
	first := receive(t, sub)
	wantReady(t, c, queue, 1)
	ack(t, first)
	wantReady(t, c, queue, 0)
	sub.Close()
	wantReady(t, c, queue, 3)
}
