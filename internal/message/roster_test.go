package message_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"plinth/internal/message"
)

// TestWorkersShareQueues has workers come, stop and die while messages come. Each queue is served by two of them at a time, or by one
// that is alone, and each message is handled once.
func TestWorkersShareQueues(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	const queues = 40
	var mu sync.Mutex
	handled := map[string]int{}
	var handlers []message.Handler
	var names []message.QueueName
	for n := range queues {
		queue := fmt.Sprintf("q%d", n)
		names = append(names, f.queue(t, queue))
		handlers = append(handlers, message.HandleBytes(queue, func(_ context.Context, m message.Message) error {
			mu.Lock()
			defer mu.Unlock()
			handled[m.ID]++
			return nil
		}))
	}
	start := func() (*message.Service, func()) {
		s := f.another(t).Service
		w := message.NewWorker(message.WorkerConfig{
			Service: s, Handlers: handlers, Tenants: actives("default").list, Drain: 5 * time.Second, Lines: f.log,
		})
		w.ShareBeyond(queues / 2)
		return s, run(t, w.Run)
	}
	servers := func(workers []*message.Service) (least, most int, each []int) {
		of := map[string]int{}
		for _, w := range workers {
			subscriptions := w.ProcessState().(message.ProcessState).Subscriptions
			for _, s := range subscriptions {
				of[s.Queue]++
			}
			each = append(each, len(subscriptions))
		}
		least = queues
		for _, q := range names {
			least, most = min(least, of[q.String()]), max(most, of[q.String()])
		}
		return least, most, each
	}
	share := func(what string, of int, workers ...*message.Service) {
		t.Helper()
		var each []int
		eventually(t, what, func() bool {
			var least, most int
			least, most, each = servers(workers)
			return least == of && most == of && slices.Min(each) > 0 // All of them know each other.
		})
		if slices.Max(each) > queues*of/len(workers)*2 {
			t.Errorf("%s: the workers have %v of %d queues", what, each, queues)
		}
	}

	published, publishing := map[string]bool{}, make(chan struct{})
	stopPublishing := run(t, func(ctx context.Context) error {
		defer close(publishing)
		for n := 0; ctx.Err() == nil; n++ {
			if r, err := f.Publish(within(t), to(names[n%queues], "x")); err != nil {
				t.Error(err)
			} else {
				published[r.ID] = true
			}
			time.Sleep(2 * time.Millisecond)
		}
		return nil
	})
	a, stopA := start()
	share("one has all", 1, a)
	b, _ := start()
	c, _ := start()
	share("two of three each", 2, a, b, c)
	stopA()
	share("two that are left", 2, b, c)
	d, _ := start()
	share("one came", 2, b, c, d)
	f.exec(t, `INSERT INTO message_workers (id, handlers, seen_at) SELECT gen_random_uuid(), handlers, now() - interval '12 seconds' FROM message_workers LIMIT 1`)
	eventually(t, "one that was killed is missing", func() bool {
		least, _, _ := servers([]*message.Service{b, c, d})
		return least == 1
	})
	share("it is gone", 2, b, c, d)
	stopPublishing()
	<-publishing
	eventually(t, "all is handled", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(handled) == len(published)
	})
	for id, n := range handled {
		if n != 1 || !published[id] {
			t.Errorf("%s was handled %d times", id, n)
		}
	}
}

// TestWorkersOfOtherHandlers has a worker that does not have the handler of a queue: the others serve it, in each order.
func TestWorkersOfOtherHandlers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "q")
	f.exec(t, `INSERT INTO message_workers (id, handlers) SELECT gen_random_uuid(), '{other}' FROM generate_series(1, 50)`)
	handled := make(chan string, 1)
	w := message.NewWorker(message.WorkerConfig{
		Service: f.another(t).Service, Tenants: actives("default").list, Lines: f.log,
		Handlers: []message.Handler{message.HandleBytes("q", func(_ context.Context, m message.Message) error {
			handled <- m.ID
			return nil
		})},
	})
	w.ShareBeyond(0)
	run(t, w.Run)
	id := f.publish(t, q, "x")
	select {
	case got := <-handled:
		if got != id {
			t.Errorf("%s is handled", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody serves it")
	}
}
