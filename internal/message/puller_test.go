package message_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// TestPullWaits has polls wait before there is a message. They share one subscription.
func TestPullWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	counted := &subscribing{Broker: f.broker}
	f.broker = counted
	f = f.another(t)
	q := f.queue(t, "orders")
	const polls = 50
	got := make(chan message.Pulled, polls)
	for range polls {
		go func() {
			pulled, err := f.Pull(within(t), request(q, 1))
			if err != nil || len(pulled) != 1 {
				t.Errorf("%d messages, %v", len(pulled), err)
				got <- message.Pulled{}
				return
			}
			got <- pulled[0]
		}()
	}
	eventually(t, "there is a subscription", func() bool { return counted.most.Load() > 0 })
	eventually(t, "the state of the process tells of them", func() bool {
		waiting := f.ProcessState().(message.ProcessState).Polls
		return len(waiting) == 1 && waiting[0] == message.PollState{Tenant: "default", Queue: "orders", Calls: polls, Wanted: polls}
	})
	for range polls {
		f.publish(t, q, "a")
	}
	seen := map[string]bool{}
	for range polls {
		m := <-got
		seen[m.ID] = true
		if m.Attempt > 1 {
			t.Errorf("attempt %d", m.Attempt)
		}
	}
	if len(seen) != polls {
		t.Errorf("%d messages came, want %d", len(seen), polls)
	}
	eventually(t, "the subscription ends", func() bool {
		return counted.open.Load() == 0 && len(f.ProcessState().(message.ProcessState).Polls) == 0
	})
	if n := counted.most.Load(); n > polls/10 { // One takes messages; those before it settle their last.
		t.Errorf("%d subscriptions at a time", n)
	}
	f.publish(t, q, "b") // Nobody waits, so it is anybody's.
	if m := one(t, f.subscribe(t, q, 1, long)); m.Attempt != 1 {
		t.Errorf("attempt %d", m.Attempt)
	}
}

// TestPollsThatGo cancels calls at all moments. Whatever they did not return comes again at once, as if nobody had taken it.
func TestPollsThatGo(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.relay(t)
	q := f.queue(t, "orders")
	n := atFullLength(300, 100)
	var mu sync.Mutex
	left := map[string]bool{}
	var group sync.WaitGroup
	group.Go(func() {
		for i := range n {
			id := f.publish(t, q, fmt.Sprint(i))
			mu.Lock()
			left[id] = true
			mu.Unlock()
		}
	})
	returned := map[string]bool{}
	published := make(chan struct{})
	var pulling sync.WaitGroup
	for range 4 {
		pulling.Go(func() {
			for {
				select {
				case <-published:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(within(t), time.Duration(rand.Int64N(int64(20*time.Millisecond))))
				pulled, err := f.Pull(ctx, request(q, 3))
				cancel()
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				mu.Lock()
				for _, m := range pulled {
					if m.Attempt != 1 || returned[m.ID] {
						t.Errorf("attempt %d of %s", m.Attempt, m.ID)
					}
					returned[m.ID] = true
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	close(published)
	pulling.Wait()
	sub := f.subscribe(t, q, 100, long)
	for {
		mu.Lock()
		for id := range returned {
			delete(left, id)
		}
		done := len(left) == 0
		mu.Unlock()
		if done {
			break
		}
		for _, m := range next(t, sub) {
			if m.Attempt != 1 {
				t.Errorf("attempt %d of %s, which nobody got", m.Attempt, m.ID)
			}
			mu.Lock()
			delete(left, m.ID)
			mu.Unlock()
			sub.Ack([]string{m.ID})
		}
	}
}

// TestPollThatGoesWithAMessage ends a call between the arrival of its message and its commit.
func TestPollThatGoesWithAMessage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	ctx, cancel := context.WithCancel(within(t))
	f.broker = &subscribing{Broker: f.broker, received: cancel}
	gone := f.another(t)
	f.relay(t)
	q := f.queue(t, "orders")
	id := f.publish(t, q, "a")
	if pulled, err := gone.Pull(ctx, request(q, 2)); !errs.Is(err, errs.Canceled) {
		t.Errorf("%v, %v", pulled, err)
	}
	if m := one(t, f.subscribe(t, q, 1, long)); m.ID != id || m.Attempt != 1 {
		t.Errorf("%+v", m)
	}
}

// TestPollThatGoesWithALease ends a call between the commit of its lease and its reply.
func TestPollThatGoesWithALease(t *testing.T) {
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		f.relay(t)
		q := f.queue(t, "orders")
		id := f.publish(t, q, "a")
		isLeased := func() (leased bool) {
			if err := f.db.QueryRow(within(t), "SELECT EXISTS (SELECT FROM message_waiting WHERE lease IS NOT NULL)").Scan(&leased); err != nil {
				t.Error(err)
			}
			return leased
		}
		if pulled, err := f.Pull(&leaving{Context: within(t), since: isLeased}, request(q, 2)); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v", pulled, err)
		}
		if m := f.pullOne(t, request(q, 1)); m.ID != id || m.Attempt != 1 || string(m.Body) != "a" {
			t.Errorf("%+v", m)
		}
	})
}

// leaving is a context that has ended since something is so, and of which nobody who is busy with it hears.
type leaving struct {
	context.Context
	since func() bool
	ended atomic.Bool
}

func (l *leaving) Err() error {
	if l.ended.Load() || l.since() {
		l.ended.Store(true)
		return context.Canceled
	}
	return l.Context.Err()
}

func TestPullOfAPausedQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.pause(t, q)
	f.publish(t, q, "a")
	r := request(q, 1)
	for _, r.Wait = range []time.Duration{0, 300 * time.Millisecond} {
		if pulled := f.pull(t, r); len(pulled) != 0 {
			t.Errorf("%v came", pulled)
		}
	}
	f.resume(t, q)
	if m := f.pullOne(t, request(q, 1)); m.Attempt != 1 {
		t.Errorf("attempt %d", m.Attempt)
	}
}

func TestPullIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.relay(t)
	q := f.queue(t, "orders")
	for range 5 {
		f.publish(t, q, strings.Repeat("x", 400<<10))
	}
	f.publish(t, q, strings.Repeat("y", message.MaxBytes))
	seen := 0
	for seen < 6 {
		bytes := 0
		pulled := f.pull(t, request(q, 100))
		for _, m := range pulled {
			bytes += len(m.Body)
			if m.Attempt != 1 {
				t.Errorf("attempt %d of one that did not fit", m.Attempt)
			}
		}
		if seen += len(pulled); bytes > 1<<20 && len(pulled) > 1 {
			t.Errorf("%d bytes in %d messages", bytes, len(pulled))
		}
	}
}

func TestPullBesideStreams(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.relay(t)
	q := f.queue(t, "orders")
	sub := f.subscribe(t, q, 10, long)
	streamed, pulled := make(chan int), make(chan int)
	ctx, stop := context.WithCancel(auth.With(t.Context(), auth.Anonymous()))
	go func() {
		n := 0
		for batch, err := sub.Next(ctx); err == nil; batch, err = sub.Next(ctx) {
			for _, m := range batch {
				n++
				sub.Ack([]string{m.ID})
			}
		}
		streamed <- n
	}()
	go func() {
		n := 0
		for ctx.Err() == nil {
			batch, _ := f.Pull(ctx, request(q, 10))
			for _, m := range batch {
				n++
				_, _ = f.Ack(context.WithoutCancel(ctx), q, []string{m.Receipt})
			}
		}
		pulled <- n
	}()
	const n = 400
	for range n {
		f.publish(t, q, "a")
	}
	f.depth(t, q, 0)
	eventually(t, "all is settled", func() bool { return f.count(t, `SELECT count(*) FROM broker_messages`) == 0 && f.waiting(t) == 0 })
	stop()
	if a, b := <-streamed, <-pulled; a+b != n || min(a, b) < n/10 {
		t.Errorf("the stream had %d, the polls %d", a, b)
	}
}

func TestPullFromADeletedQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	counted := &subscribing{Broker: f.broker}
	f.broker = counted
	f = f.another(t)
	q := f.queue(t, "orders")
	f.publish(t, q, "a")
	m := f.pullOne(t, request(q, 1))
	eventually(t, "the subscription ends", func() bool { return counted.open.Load() == 0 })
	gone := make(chan error, 1)
	go func() {
		_, err := f.Pull(within(t), request(q, 1))
		gone <- err
	}()
	eventually(t, "the poll waits", func() bool { return counted.open.Load() == 1 })
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if err := <-gone; !errs.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	f.spent(t, q, m.Receipt)
	if _, err := f.Pull(within(t), request(q, 1)); !errs.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
}
