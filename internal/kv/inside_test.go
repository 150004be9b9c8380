package kv

import "time"

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
