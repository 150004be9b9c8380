package message

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

func entries(m *sync.Map) (n int) {
	m.Range(func(_, _ any) bool { n++; return true })
	return n
}

// TestWhatIsRememberedOfQueues uses many queues once, of which one stays open.
func TestWhatIsRememberedOfQueues(t *testing.T) {
	r, known := &rates{}, &topology{}
	queue := func(n int) tenantQueue { return tenantQueue{"acme", QueueName{strconv.Itoa(n)}} }
	now := time.Now()
	for n := range 1000 {
		r.of(queue(n)).published.Add(1)
		known.consumed.Store(queue(n), uint64(1))
		known.declared.Store(strconv.Itoa(n), &declaration{generation: 1, at: now.Add(-time.Duration(n) * time.Second), all: true})
	}
	r.add(&source{tenantQueue: queue(7)})
	if counts := r.take(); len(counts) != 1000 {
		t.Errorf("%d queues counted", len(counts))
	}
	r.take()
	r.of(queue(8)).published.Add(1) // It was idle, and is in use again.
	if counts := r.take(); len(counts) != 1 || counts[0].queue.name != "8" {
		t.Errorf("counted %v", counts)
	}
	known.prune(now, r)
	if n := entries(&r.queues); n != 2 {
		t.Errorf("%d queues are remembered", n)
	}
	if n := entries(&known.consumed); n != 2 {
		t.Errorf("%d consumed queues are remembered", n)
	}
	if n := entries(&known.declared); n != int(topicKept/time.Second) {
		t.Errorf("%d topics are remembered", n)
	}
	r.take()
	r.take()
	if known.prune(now.Add(time.Hour), r); entries(&r.queues) != 1 || entries(&known.declared) != 0 {
		t.Errorf("%d queues and %d topics are remembered", entries(&r.queues), entries(&known.declared))
	}
}

// TestReadsOfOneQueue reads one queue beside all: what began last wins.
func TestReadsOfOneQueue(t *testing.T) {
	of := func(name string) tenantQueue { return tenantQueue{"acme", QueueName{name}} }
	var all func() map[tenantQueue]bool
	p := newQueueMap(func(context.Context, *pg.System) (map[tenantQueue]bool, error) { return all(), nil })
	one := func(name string, paused bool) func() {
		return func() { _ = p.readOne(of(name), func() (bool, error) { return paused, nil }) }
	}
	want := func(what string, names ...string) {
		t.Helper()
		if has, _ := p.all(); len(has) != len(names) || len(names) > 0 && !has[of(names[0])] {
			t.Errorf("%s: %v", what, has)
		}
	}
	read := func(during func(), names ...string) {
		all = func() map[tenantQueue]bool {
			found := map[tenantQueue]bool{}
			for _, name := range names {
				found[of(name)] = true
			}
			during()
			return found
		}
		_ = p.read(t.Context(), nil)
	}
	read(func() {}, "a", "b")
	want("all", "a", "b")
	_, until := p.of(of("a"))
	one("a", true)()
	if until.Err() != nil {
		t.Error("nothing has changed")
	}
	one("a", false)()
	if want("one ended", "b"); until.Err() == nil {
		t.Error("nobody is told")
	}
	read(one("c", true), "a") // What was read of all is older.
	want("one while all are read", "c", "a")
	read(func() {}, "a")
	want("all again", "a")
	if len(p.one) != 0 {
		t.Errorf("%d are remembered by themselves", len(p.one))
	}
}

// Held returns the bytes that streams hold.
func (s *Service) Held() int64 { return s.held.Load() }

// OthersHold has the other streams of the process hold all that it may, but room.
func (s *Service) OthersHold(room int64) { s.held.Add(maxHeldByAll - room) }

// DeclareBeside declares the queues of a topic of the tenant of ctx as a lane of a relay does while another one waits for that.
func (s *Service) DeclareBeside(ctx context.Context, topic string) error {
	p := patience{time.Hour, new(sync.Mutex)}
	p.alone.Lock()
	of := tenantTopic{auth.TenantOf(ctx), topic}
	topics := map[tenantTopic]error{of: nil}
	s.declareTopics(ctx, s.broker.Generation(), topics, p)
	return topics[of]
}
