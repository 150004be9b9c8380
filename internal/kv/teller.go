package kv

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	tellEvery  = 10 * time.Millisecond
	tellAtOnce = 100 // keys in one question
)

// teller has the entries that Redis is to be told of.
type teller struct {
	mu      sync.Mutex
	entries []*entry
	set     bool // somebody tells of them in a moment
	closed  bool

	telling sync.Mutex // held by who tells
}

// tellLater has Redis told of what was taken of an entry.
func (l *Limiter) tellLater(e *entry) {
	if !e.listed.CompareAndSwap(false, true) {
		return
	}
	t := &l.teller
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries = append(t.entries, e)
	if !t.set && !t.closed {
		t.set = true
		time.AfterFunc(tellEvery, l.tell)
	}
}

// Close tells Redis of what was taken last. Nothing is to be taken afterwards.
func (l *Limiter) Close() {
	l.teller.mu.Lock()
	l.teller.closed = true
	l.teller.mu.Unlock()
	l.tell()
}

// tell tells Redis of what was taken until now.
func (l *Limiter) tell() {
	t := &l.teller
	t.telling.Lock()
	defer t.telling.Unlock()
	t.mu.Lock()
	entries := t.entries
	t.entries, t.set = nil, false
	t.mu.Unlock()
	for some := range slices.Chunk(entries, tellAtOnce) {
		l.tellOf(some)
	}
}

func (l *Limiter) tellOf(entries []*entry) {
	buckets := make([]bucket, 0, len(entries))
	told := entries[:0]
	for _, e := range entries {
		e.listed.Store(false) // First: what is taken from here on lists it again.
		if b := e.depart(); b.told != 0 {
			buckets = append(buckets, b)
			told = append(told, e)
		}
	}
	if len(buckets) == 0 {
		return
	}
	now, answered := l.clock(), false
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
