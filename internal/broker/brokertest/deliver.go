package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"plinth/internal/broker"
)

func testRoundTrip(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sub := Subscribe(t, c, queue, 1)

	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	plain := Message("hello")
	empty := Message("")
	binary := Message(string(every))
	large := Message(string(bytes.Repeat(every, 1<<20/len(every))))
	attributed := Message("hello")
	attributed.Attributes = map[string]string{
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"größe":       "übergroß, 特大 🐘",
		"empty":       "",
		"":            "no key",
		"lines":       "one\r\ntwo\ttab \"quoted\" \\",
	}
	for _, want := range []broker.Message{plain, empty, binary, large, attributed} {
		if err := c.Publish(Patient(t), broker.Address{Queue: queue}, want); err != nil {
			t.Fatalf("Publish: %v", err)
		}
		got := Receive(t, sub)
		wantMessage(t, got.Message, want)
		if got.Attempt != 1 {
			t.Errorf("attempt is %d, want 1", got.Attempt)
		}
		Ack(t, got)
	}
}

// testHeaders uses the same keys for attributes and headers, and keys that have a meaning for the server or its client.
func testHeaders(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sub := Subscribe(t, c, queue, 1)
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	headed := Message("headers alone")
	headed.Headers = map[string]string{"traceparent": trace, "tracestate": "a=1,b=2", "attempts": "3", "empty": ""}
	both := Message("both")
	both.Attributes = map[string]string{"traceparent": "the publisher's", "attempts": "one", "x-delivery-count": "7"}
	both.Headers = map[string]string{"traceparent": trace, "attempts": "2", "attributes": "none", "plinth-attempts": "4"}
	for _, want := range []broker.Message{headed, both, Message("neither")} {
		if err := c.Publish(Patient(t), broker.Address{Queue: queue}, want); err != nil {
			t.Fatalf("Publish: %v", err)
		}
		first := Receive(t, sub)
		wantMessage(t, first.Message, want)
		Nack(t, first)
		again := Receive(t, sub)
		wantMessage(t, again.Message, want)
		Ack(t, again)
	}
}

func testCredit(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	Publish(t, c, queue, "one", "two", "three", "four", "five")

	sub := Subscribe(t, c, queue, 2)
	first, second := Receive(t, sub), Receive(t, sub)
	ReceiveNothing(t, sub)
	WantReady(t, c, queue, 3)

	Ack(t, second)
	third := Receive(t, sub)
	ReceiveNothing(t, sub)
	Ack(t, first)
	Ack(t, third)
	Ack(t, Receive(t, sub))
	Ack(t, Receive(t, sub))
	ReceiveNothing(t, sub)
	sub.Close()
	WantReady(t, c, queue, 0)
}

func testNack(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sent := Publish(t, c, queue, "again")
	sub := Subscribe(t, c, queue, 1)
	for attempt := 1; attempt <= 4; attempt++ {
		d := Receive(t, sub)
		wantMessage(t, d.Message, sent[0])
		if d.Attempt != attempt {
			t.Errorf("attempt is %d, want %d", d.Attempt, attempt)
		}
		Nack(t, d)
	}
}

func testSettleTwice(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sub := Subscribe(t, c, queue, 2)

	Publish(t, c, queue, "acked")
	acked := Receive(t, sub)
	Ack(t, acked)
	_ = acked.Nack(Patient(t))
	_ = acked.Ack(Patient(t))
	ReceiveNothing(t, sub)

	Publish(t, c, queue, "nacked")
	nacked := Receive(t, sub)
	Nack(t, nacked)
	_ = nacked.Ack(Patient(t))
	again := Receive(t, sub)
	_ = nacked.Ack(Patient(t))
	if again.ID != nacked.ID {
		t.Fatalf("received %s, want %s again", again.ID, nacked.ID)
	}
	Nack(t, again)
	Ack(t, Receive(t, sub))
	ReceiveNothing(t, sub)
	WantReady(t, c, queue, 0)
}

func testClose(t *testing.T, open Open) {
	c, other := start(t, open), start(t, open)
	queue := Declare(t, c, broker.Queue{})
	want := map[string]bool{}
	for _, m := range Publish(t, c, queue, "one", "two", "three", "four", "five") {
		want[m.ID] = true
	}

	sub := Subscribe(t, c, queue, 5)
	held := []broker.Delivery{Receive(t, sub), Receive(t, sub)}
	WantReady(t, c, queue, 0)
	elsewhere := Subscribe(t, other, queue, 5)
	ReceiveNothing(t, elsewhere)

	sub.Close()
	sub.Close()
	for _, d := range held {
		_ = d.Ack(Patient(t)) // Too late: the end of the subscription settled it.
	}
	if _, err := sub.Receive(Patient(t)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Receive after Close: %v, want an error at once", err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for range 5 {
		d, err := elsewhere.Receive(soon)
		if err != nil {
			t.Fatalf("Receive on the other client: %v, with %d messages not given back", err, len(want))
		}
		if !want[d.ID] {
			t.Errorf("message %s came twice", d.ID)
		}
		delete(want, d.ID)
		Ack(t, d)
	}
	WantReady(t, c, queue, 0)
}

// testClosed publishes to a queue whose subscription has just ended. A message that went to that subscription would come
// again, with an attempt that nobody saw.
func testClosed(t *testing.T, open Open) {
	const rounds = 100
	c, other := start(t, open), start(t, open)
	queue := Declare(t, c, broker.Queue{})
	for range rounds {
		Subscribe(t, c, queue, 10).Close()
		want := Publish(t, other, queue, "seen by nobody yet")[0]
		sub := Subscribe(t, c, queue, 10)
		d := Receive(t, sub)
		if wantMessage(t, d.Message, want); d.Attempt != 1 {
			t.Fatalf("what was published after Close comes with the attempt %d, want 1", d.Attempt)
		}
		Ack(t, d)
		sub.Close()
	}
}

func testShare(t *testing.T, open Open) {
	const messages = 200
	c, other := start(t, open), start(t, open)
	queue := Declare(t, c, broker.Queue{})
	subs := []broker.Subscription{Subscribe(t, c, queue, 1), Subscribe(t, other, queue, 1)}

	bodies := make([]string, messages)
	for i := range bodies {
		bodies[i] = fmt.Sprint(i)
	}
	Publish(t, c, queue, bodies...)

	// Each has a credit of one, and neither acks before both hold a message.
	held := []broker.Delivery{Receive(t, subs[0]), Receive(t, subs[1])}
	var seen tally
	seen.add(held[0].ID)
	seen.add(held[1].ID)
	ctx, cancel := context.WithCancel(Patient(t))
	defer cancel()
	var wg sync.WaitGroup
	for i, sub := range subs {
		Ack(t, held[i])
		wg.Go(func() {
			for ctx.Err() == nil {
				d, err := sub.Receive(ctx)
				if err != nil {
					return
				}
				if err := d.Ack(ctx); err != nil {
					t.Errorf("Ack: %v", err)
				}
				if seen.add(d.ID) == messages {
					cancel()
				}
			}
		})
	}
	wg.Wait()
	seen.wantOnce(t, messages)
}

func testManyPublishers(t *testing.T, open Open) {
	const publishers, each = 64, 40
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sub := Subscribe(t, c, queue, 100)
	ctx, cancel := context.WithTimeout(t.Context(), 3*Patience)
	defer cancel()

	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for range each {
				if err := c.Publish(ctx, broker.Address{Queue: queue}, Message("one of many")); err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	var seen tally
	for range publishers * each {
		d, err := sub.Receive(ctx)
		if err != nil {
			t.Fatalf("Receive: %v, after %d messages", err, len(seen.ids))
		}
		if err := d.Ack(ctx); err != nil {
			t.Fatalf("Ack: %v", err)
		}
		seen.add(d.ID)
	}
	wg.Wait()
	seen.wantOnce(t, publishers*each)
	ReceiveNothing(t, sub)
	WantReady(t, c, queue, 0)
}

// tally counts how often each message was received.
type tally struct {
	mu  sync.Mutex
	ids map[string]int
}

// add counts a message and returns how many different ones were received.
func (s *tally) add(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[string]int{}
	}
	s.ids[id]++
	return len(s.ids)
}

func (s *tally) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids[id] > 0
}

func (s *tally) wantOnce(t *testing.T, messages int) {
	t.Helper()
	if len(s.ids) != messages {
		t.Errorf("%d different messages came, want %d", len(s.ids), messages)
	}
	for id, n := range s.ids {
		if n != 1 {
			t.Errorf("message %s came %d times", id, n)
		}
	}
}
