package postgres

import (
	"maps"
	"slices"
)

// line has this process's subscriptions of one queue, the one that is woken next first.
//
// One is woken for each notification, and wakes the next where it got all that it asked for: there may be more. So they take
// turns, and a thousand that wait for the same message do not ask a thousand times for it.
type line struct {
	subs []*subscription // guarded by the Broker's mu
	turn turn
}

// next takes who is to be woken: the first that has credit. Who has none claims by itself as soon as it has; only if nobody
// has any, the first is to look whether the queue is still there.
func (l *line) next() *subscription {
	if len(l.subs) == 0 {
		return nil
	}
	n := max(0, slices.IndexFunc(l.subs, func(s *subscription) bool { return s.free() > 0 }))
	s := l.subs[n]
	l.subs = append(slices.Delete(l.subs, n, n+1), s)
	return s
}

// wakeNext wakes the next subscription of a queue.
func (b *Broker) wakeNext(queue int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.lines[queue]; l != nil {
		signal(l.next().woken)
	}
}

func (b *Broker) queues() []int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.lines))
}
