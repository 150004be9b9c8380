package ratelimit

import (
	"testing"
	"time"
)

// SetReplyLimit has the limiter wait longer for Redis, where a test on a busy machine is not about that.
func (l *Limiter) SetReplyLimit(d time.Duration) { l.replyLimit = d }

// Report reports to Redis at once.
func (l *Limiter) Report() { l.Close() }

// SetPaces has the limiter report to Redis sooner or later.
func (l *Limiter) SetPaces(soonAfter, lateAfter time.Duration) {
	l.reporters[soon].after, l.reporters[late].after = soonAfter, lateAfter
}

// Buckets returns how many keys are remembered.
func (l *Limiter) Buckets() (n int) {
	for i := range l.table.shards {
		s := &l.table.shards[i]
		s.mu.Lock()
		n += len(s.buckets)
		s.mu.Unlock()
	}
	return n
}

// TestAnswersOutOfOrder has the older of two replies arrive last: the process must not believe that there is more left.
func TestAnswersOutOfOrder(t *testing.T) {
	b := &bucket{rate: rate{100, time.Hour}, unreported: 1, takenAt: 1}
	first, second := b.newQuery(2), b.newQuery(3)
	second.level = 90
	b.apply(3, second, true)
	first.level = 40
	b.apply(2, first, true)
	if level := b.shared.read(4, b.rate); level < 89 {
		t.Errorf("after the level 90, and a reply of 40 that was given before, it is taken to be %v", level)
	}
}
