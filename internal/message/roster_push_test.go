package message_test

import (
	"fmt"
	"testing"
	"time"

	"plinth/internal/message"
)

// TestWorkersSharePushes has three workers share the pushes of many queues, and one of them killed, so that the others go on to count on it.
// Each queue has two workers, at least one while the death is not noticed, and two again then. All is pushed, once.
func TestWorkersSharePushes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	const queues = 30
	url, calls := endpoint(t, ok)
	var names []message.QueueName
	for n := range queues {
		names = append(names, f.pushes(t, fmt.Sprintf("q%d", n), pushTo(url)).Name)
	}
	share := func() (*message.Worker, func()) {
		w := message.NewWorker(message.WorkerConfig{Service: f.another(t).Service, Tenants: actives("default").list, Drain: 5 * time.Second, Lines: f.log})
		w.ShareBeyond(queues / 2)
		return w, run(t, w.Run)
	}
	a, _ := share()
	eventually(t, "one alone has all", func() bool { return pushers(names, a) == pushersOf{1, 1} })
	b, _ := share()
	c, kill := share()
	eventually(t, "two of three have each", func() bool {
		return pushers(names, a, b, c) == pushersOf{2, 2} && len(a.Pushed()) < queues && len(b.Pushed()) < queues && len(c.Pushed()) < queues
	})
	f.schema(t, `CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	f.schema(t, `CREATE TRIGGER stay BEFORE DELETE ON message_workers FOR EACH ROW EXECUTE FUNCTION stay()`)
	kill()
	if left := pushers(names, a, b); left.least < 1 {
		t.Errorf("when one is dead, a queue has %+v workers", left)
	}
	published := map[string]bool{}
	for _, q := range names {
		published[f.publish(t, q, "x")] = true
	}
	for range names {
		id := called(t, calls).header.Get("ce-id")
		if !published[id] {
			t.Errorf("%s is pushed again", id)
		}
		delete(published, id)
	}
	f.exec(t, `UPDATE message_workers SET seen_at = now() - interval '1 hour'`) // The others tell anew.
	eventually(t, "its death is noticed", func() bool { return pushers(names, a, b) == pushersOf{2, 2} })
}

// pushersOf are the fewest and the most workers that a queue has.
type pushersOf struct{ least, most int }

func pushers(queues []message.QueueName, workers ...*message.Worker) pushersOf {
	of := map[message.QueueName]int{}
	for _, w := range workers {
		for q := range w.Pushed() {
			of[q]++
		}
	}
	p := pushersOf{least: len(workers)}
	for _, q := range queues {
		p.least, p.most = min(p.least, of[q]), max(p.most, of[q])
	}
	return p
}
