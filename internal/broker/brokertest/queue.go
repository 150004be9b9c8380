package brokertest

import (
	"errors"
	"testing"

	"plinth/internal/broker"
)

func testUnknownQueue(t *testing.T, open Open) {
	c := start(t, open)
	queue := QueueName(t, c)

	if err := c.Publish(Patient(t), broker.Address{Queue: queue}, Message("lost")); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Publish: %v, want ErrNoQueue", err)
	}
	if _, err := c.Ready(Patient(t), queue); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Ready: %v, want ErrNoQueue", err)
	}
	if _, err := c.Subscribe(Patient(t), queue, 1); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Subscribe: %v, want ErrNoQueue", err)
	}
	if err := c.Delete(Patient(t), queue); err != nil {
		t.Errorf("Delete: %v, want nil", err)
	}

	if err := c.Declare(Patient(t), broker.Queue{Name: queue}); err != nil {
		t.Fatalf("Declare: %v", err)
	}
	sub := Subscribe(t, c, queue, 1)
	ReceiveNothing(t, sub)
	Publish(t, c, queue, "kept")
	if d := Receive(t, sub); string(d.Body) != "kept" {
		t.Errorf("received %q, want the message that was published after Declare", d.Body)
	}
}

func testDeclareTwice(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sent := Publish(t, c, queue, "one")

	if err := c.Declare(Patient(t), broker.Queue{Name: queue}); err != nil {
		t.Fatalf("Declare again: %v", err)
	}
	WantReady(t, c, queue, 1)
	wantMessage(t, Receive(t, Subscribe(t, c, queue, 1)).Message, sent[0])
}

func testDelete(t *testing.T, open Open) {
	c, other := start(t, open), start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sub := Subscribe(t, c, queue, 1)
	elsewhere := Subscribe(t, other, queue, 1)
	Publish(t, c, queue, "one", "two", "three")
	Receive(t, sub)
	Receive(t, elsewhere)

	if err := c.Delete(Patient(t), queue); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	for _, s := range []broker.Subscription{sub, elsewhere, sub} {
		if d, err := s.Receive(Patient(t)); !errors.Is(err, broker.ErrNoQueue) {
			t.Errorf("Receive: message %q and error %v, want ErrNoQueue", d.ID, err)
		}
	}
	if err := c.Publish(Patient(t), broker.Address{Queue: queue}, Message("late")); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Publish: %v, want ErrNoQueue", err)
	}

	if err := c.Declare(Patient(t), broker.Queue{Name: queue}); err != nil {
		t.Fatalf("Declare after Delete: %v", err)
	}
	ReceiveNothing(t, Subscribe(t, c, queue, 1))
}

func testReady(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	WantReady(t, c, queue, 0)
	Publish(t, c, queue, "one", "two", "three", "four")
	WantReady(t, c, queue, 4)

	sub := Subscribe(t, c, queue, 3)
	first := Receive(t, sub)
	WantReady(t, c, queue, 1)
	Ack(t, first)
	WantReady(t, c, queue, 0)
	sub.Close()
	WantReady(t, c, queue, 3)
}
