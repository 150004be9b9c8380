package postgres

import (
	"maps"
	"slices"

	"plinth/internal/loop"
)

// line has this process's subscriptions of one queue. The next one to wake is the first.
//
// Each notification wakes one subscription, which wakes the next one if it got all that it asked for, since there may be
// more. So they take turns, and a thousand subscriptions that wait for the same message do not run a thousand queries for
// it.
type line struct {
	subs []*subscription // guarded by the Broker's mu
	turn turn
}

// next returns the subscription to wake, the first that has credit, and moves it to the end. One without credit claims by
// itself as soon as it has some. If none has credit and anybody is set, next returns the first of all, to check whether the
// queue still exists.
func (l *line) next(anybody bool) *subscription {
	n := slices.IndexFunc(l.subs, func(s *subscription) bool { return s.free() > 0 })
	if n < 0 && anybody && len(l.subs) > 0 {
		n = 0
	}
	if n < 0 {
		return nil
	}
	s := l.subs[n]
	l.subs = append(slices.Delete(l.subs, n, n+1), s)
	return s
}

// hasOthers reports whether the process has other subscriptions of the queue with credit.
func (b *Broker) hasOthers(s *subscription) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(s.line.subs, func(other *subscription) bool { return other != s && other.free() > 0 })
}

// wakeBeside wakes a subscription with credit other than s, if there is one.
func (b *Broker) wakeBeside(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, other := range s.line.subs {
		if other != s && other.free() > 0 {
			loop.Signal(other.woken)
			return
		}
	}
}

// wakeNext wakes the next subscription of a queue.
func (b *Broker) wakeNext(queue int64, anybody bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.lines[queue]; l != nil {
		l.wakeNext(anybody)
	}
}

func (l *line) wakeNext(anybody bool) {
	if s := l.next(anybody); s != nil {
		loop.Signal(s.woken)
	}
}

func (b *Broker) queues() []int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.lines))
}
