package kv

import (
	"testing"
	"time"
)

// SetPatience has the limiter wait longer for Redis, where a test on a busy machine is not about that.
func (l *Limiter) SetPatience(d time.Duration) { l.patience = d }

// Tell tells Redis at once.
func (l *Limiter) Tell() { l.Close() }

// SetPaces has the limiter tell Redis sooner or later.
func (l *Limiter) SetPaces(soonAfter, lateAfter time.Duration) {
	l.tellers[soon].after, l.tellers[late].after = soonAfter, lateAfter
}

// Entries is how many keys are remembered.
func (l *Limiter) Entries() (n int) {
	for i := range l.table.shards {
		s := &l.table.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}

// TestAnswersOutOfOrder has the older of two answers arrive last: it must not make this process believe that there is more left.
func TestAnswersOutOfOrder(t *testing.T) {
	e := &entry{rate: Rate{100, time.Hour}, untold: 1, takenAt: 1}
	first, second := e.depart(2), e.depart(3)
	second.level = 90
	e.arrive(3, second, true)
	first.level = 40
	e.arrive(2, first, true)
	if level := e.shared.read(4, e.rate); level < 89 {
		t.Errorf("after the level 90, and an answer of 40 that was given before, it is taken to be %v", level)
	}
}
