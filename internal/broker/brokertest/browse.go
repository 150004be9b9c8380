package brokertest

import (
	"errors"
	"testing"

	"plinth/internal/broker"
)

// testBrowse looks at a queue page by page, and takes nothing.
func testBrowse(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sent := Publish(t, c, queue, "taken", "one", "two", "three")
	sub := Subscribe(t, c, queue, 1)
	Receive(t, sub)
	list, more, err := c.Browse(Patient(t), queue, 0, 2, 1000)
	if errors.Is(err, broker.ErrCannotBrowse) {
		return
	}
	if err != nil || len(list) != 2 || !more {
		t.Fatalf("%v, %t, %v", list, more, err)
	}
	for i, m := range list {
		wantMessage(t, m.Message, sent[1+i])
		if m.Attempts != 0 {
			t.Errorf("%d attempts of a message that nobody had", m.Attempts)
		}
	}
	list, more, err = c.Browse(Patient(t), queue, list[1].Place, 2, 1000)
	if err != nil || len(list) != 1 || more {
		t.Fatalf("%v, %t, %v", list, more, err)
	}
	wantMessage(t, list[0].Message, sent[3])
	if list, more, err = c.Browse(Patient(t), queue, 0, 10, 1); err != nil || len(list) != 1 || !more {
		t.Errorf("more bytes than allowed: %v, %t, %v", list, more, err)
	}
	if _, _, err = c.Browse(Patient(t), "brokertest.none", 0, 10, 1); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("an unknown queue: %v", err)
	}
	WantReady(t, c, queue, 3)
}
