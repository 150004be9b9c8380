package kv

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	tellSoon   = 10 * time.Millisecond
	tellLate   = 10 * time.Second
	tellAtOnce = 100 // keys in one question
)

// pace says when Redis is told of what was taken.
type pace int

const (
	soon pace = iota
	late      // where it is next to nothing: most keys of many are used now and then
	paces
)

// teller has the entries that Redis is to be told of, at a pace.
type teller struct {
	after time.Duration

	mu      sync.Mutex
	entries []*entry
	set     bool // somebody tells of them after a while

	telling sync.Mutex // held by who tells
}

// tellLater has Redis told of what was taken of an entry.
func (l *Limiter) tellLater(e *entry, p pace) {
	if e.listed[p].Load() || !e.listed[p].CompareAndSwap(false, true) {
		return
	}
	t := &l.tellers[p]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries = append(t.entries, e)
	if !t.set {
		t.set = true
		time.AfterFunc(t.after, func() { l.tell(p) })
	}
}

// Close tells Redis of what was taken last. Nothing is to be taken afterwards.
func (l *Limiter) Close() {
	for p := range paces {
		l.tell(p)
	}
}

// tell tells Redis of what was taken until now.
func (l *Limiter) tell(p pace) {
	t := &l.tellers[p]
	t.telling.Lock()
	defer t.telling.Unlock()
	t.mu.Lock()
	entries := t.entries
	t.entries, t.set = nil, false
	t.mu.Unlock()
	for some := range slices.Chunk(entries, tellAtOnce) {
		l.tellOf(some, p)
	}
}

func (l *Limiter) tellOf(entries []*entry, p pace) {
	now := l.clock()
	buckets := make([]bucket, 0, len(entries))
	told := entries[:0]
	for _, e := range entries {
		e.listed[p].Store(false) // First: what is taken from here on lists it again.
		if b := e.depart(now); b.told != 0 {
			buckets = append(buckets, b)
			told = append(told, e)
		}
	}
	if len(buckets) == 0 {
		return
	}
	answered := false
	if l.reachable(now) {
		_, err := l.ask(context.Background(), 0, buckets)
		if answered = err == nil; !answered {
			l.lose(err)
		}
	}
	for i, e := range told {
		e.arrive(now, buckets[i], answered)
	}
}
