package postgres

import (
	"testing"

	"plinth/internal/broker/brokertest"
	"plinth/internal/pg/pgtest"
)

// One subscription is woken for each notification: those that have credit, in turn. One that ends wakes the next.
func TestOneIsWoken(t *testing.T) {
	t.Parallel()
	const queue = 7
	l := &line{}
	b := &Broker{lines: map[int64]*line{queue: l}}
	for _, credit := range []int{0, 1, 1} {
		l.subs = append(l.subs, newSubscription(b, l, queue, credit))
	}
	subs := append([]*subscription(nil), l.subs...)
	woken := func(what string, want ...int) {
		t.Helper()
		for i, s := range subs {
			n := 0
			if len(want) > 0 && want[0] == i {
				n, want = 1, want[1:]
			}
			if len(s.woken) != n {
				t.Errorf("%s: %d signals for subscription %d, want %d", what, len(s.woken), i, n)
			}
			for len(s.woken) > 0 {
				<-s.woken
			}
		}
	}
	b.wake("8")
	woken("another queue's notification")
	for _, next := range []int{1, 2, 1} {
		b.wake("7")
		woken("a notification", next)
	}
	b.wake("")
	woken("a new connection", 2)
	b.forget(subs[2])
	woken("the end of one", 1)
	b.forget(subs[1])
	woken("the end of the last one with credit: the queue may be deleted", 0)
	b.wake("7")
	woken("a notification where nobody has credit")
	b.forget(subs[0])
	if len(b.lines) != 0 {
		t.Error("the line of nobody is kept")
	}
	b.wake("7")
}

// All subscriptions of a queue learn of its deletion, whatever credit they have.
func TestDeleteEndsAll(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	const some = 10
	for range 2 * some {
		subscribe(t, b, queue, 1)
	}
	for range some { // Half of them have no credit any more.
		publish(t, b, queue, "held")
	}
	brokertest.WantReady(t, b, queue, 0)
	if err := b.Delete(patient(t), queue); err != nil {
		t.Fatal(err)
	}
	brokertest.Eventually(t, "all have ended", func() bool { return len(b.subscriptions()) == 0 })
}

// A subscription that is stopped is woken no more, in place of one that could claim, also while it holds something that is to be settled.
func TestStoppedIsNotWoken(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	stopped := brokertest.Subscribe(t, b, queue, 5)
	brokertest.Publish(t, b, queue, "held")
	held := brokertest.Receive(t, stopped)
	stopped.Stop()
	brokertest.Subscribe(t, b, queue, 5)
	b.mu.Lock()
	for range 4 {
		if l := stopped.(*subscription).line; l.next(false) == stopped {
			t.Error("the one that is stopped is to be woken")
		}
	}
	b.mu.Unlock()
	brokertest.Ack(t, held)
}
