package brokertest

import (
	"sync"
	"testing"
	"time"

	"plinth/internal/broker"
)

// testStop stops a subscription that has received one message of several. The others are in its hands or in the queue, and
// the one that it received can still be settled.
func testStop(t *testing.T, open Open) {
	c, other := start(t, open), start(t, open)
	queue := Declare(t, c, broker.Queue{})
	sent := Publish(t, c, queue, "one", "two", "three", "four")
	sub := Subscribe(t, c, queue, 3)
	held := Receive(t, sub)
	wantMessage(t, held.Message, sent[0])
	WantReady(t, c, queue, 1)
	for _, d := range sub.Stop() {
		Nack(t, d)
	}
	WantReady(t, c, queue, 3)
	Publish(t, c, queue, "five")
	WantReady(t, c, queue, 4)

	elsewhere := Subscribe(t, other, queue, 10)
	var seen tally
	for range 4 {
		d := Receive(t, elsewhere)
		if d.ID == held.ID {
			t.Error("what is outstanding came again")
		}
		seen.add(d.ID)
		Ack(t, d)
	}
	seen.wantOnce(t, 4)
	Ack(t, held)
	if more := sub.Stop(); len(more) != 0 {
		t.Errorf("Stop again returns %d deliveries", len(more))
	}
	sub.Close()
	ReceiveNothing(t, elsewhere)
	WantReady(t, c, queue, 0)
}

// testStopAfterAck stops subscriptions just after an ack, at which the broker sends more. Whatever nobody received is returned, or was
// not delivered.
func testStopAfterAck(t *testing.T, open Open) {
	const rounds = 6
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	Publish(t, c, queue, make([]string, rounds)...)
	returned := map[string]int{}
	var closing sync.WaitGroup
	defer closing.Wait()
	for round := range rounds {
		sub := Subscribe(t, c, queue, 1)
		d := Receive(t, sub)
		if want := 1 + returned[d.ID]; d.Attempt != want {
			t.Errorf("round %d: it comes as attempt %d, want %d", round, d.Attempt, want)
		}
		Ack(t, d)
		for _, back := range sub.Stop() {
			returned[back.ID]++
			Nack(t, back)
		}
		closing.Go(sub.Close) // It may take a while.
	}
}

// testNackElsewhere has the subscription that received a message return it, while another one has credit.
func testNackElsewhere(t *testing.T, open Open) {
	const rounds = 20
	c, other := start(t, open), start(t, open)
	for name, second := range map[string]client{"in the same process": c, "in another": other} {
		queue := Declare(t, c, broker.Queue{})
		subs := []broker.Subscription{Subscribe(t, c, queue, 2), Subscribe(t, second, queue, 2)}
		same := 0
		for round := range rounds {
			want := Publish(t, c, queue, "passed on")[0]
			first, d := receiveAny(t, subs)
			wantMessage(t, d.Message, want)
			Nack(t, d)
			then, again := receiveAny(t, subs)
			wantMessage(t, again.Message, want)
			if then == first {
				same++
			}
			if again.Attempt != 2 {
				t.Errorf("%s, round %d: it comes again as attempt %d", name, round, again.Attempt)
			}
			Ack(t, again)
		}
		if same > rounds/5 { // Who does not hear of it in time on a busy machine is passed over.
			t.Errorf("%s: in %d of %d rounds the subscription that returned it has it again", name, same, rounds)
		}
	}
}

// receiveAny returns the next delivery of any of the subscriptions, and which one has it.
func receiveAny(t *testing.T, subs []broker.Subscription) (n int, d broker.Delivery) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for time.Now().Before(deadline) {
		for i, sub := range subs {
			if d, ok := receiveSoon(t, sub); ok {
				return i, d
			}
		}
	}
	t.Fatal("no subscription receives anything")
	return 0, d
}

func receiveSoon(t *testing.T, sub broker.Subscription) (broker.Delivery, bool) {
	t.Helper()
	ctx, cancel := contextFor(t, 5*time.Millisecond)
	defer cancel()
	d, err := sub.Receive(ctx)
	return d, err == nil
}
