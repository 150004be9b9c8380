package ratelimit

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	reportSoon   = 10 * time.Millisecond
	reportLate   = 10 * time.Second
	reportAtOnce = 100 // keys
)

// pace is how soon what was taken is reported to Redis.
type pace int

const (
	soon pace = iota
	late      // for next to nothing: most keys of many are used now and then
	paces
)

// reporter lists the buckets that have something to report, at one pace.
type reporter struct {
	after time.Duration

	mu      sync.Mutex
	buckets []*bucket
	pending bool // a report of them will begin after a while

	reporting sync.Mutex // held by the report under way
}

// reportAllLater has the unreported tokens of the reservations reported to Redis.
func (l *Limiter) reportAllLater(all []reservation) {
	for i := range all {
		if all[i].state == unreported {
			l.reportLater(all[i].bucket, all[i].pace)
		}
	}
}

// reportLater has what was taken of a bucket reported to Redis.
func (l *Limiter) reportLater(b *bucket, p pace) {
	if b.listed[p].Load() || !b.listed[p].CompareAndSwap(false, true) {
		return
	}
	r := &l.reporters[p]
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buckets = append(r.buckets, b)
	if !r.pending {
		r.pending = true
		time.AfterFunc(r.after, func() { l.report(p) })
	}
}

// Close reports to Redis what was taken last. Nothing may be taken afterwards.
func (l *Limiter) Close() {
	for p := range paces {
		l.report(p)
	}
}

// report reports to Redis what was taken until now.
func (l *Limiter) report(p pace) {
	r := &l.reporters[p]
	r.reporting.Lock()
	defer r.reporting.Unlock()
	r.mu.Lock()
	buckets := r.buckets
	r.buckets, r.pending = nil, false
	r.mu.Unlock()
	for some := range slices.Chunk(buckets, reportAtOnce) {
		l.reportSome(some, p)
	}
}

func (l *Limiter) reportSome(buckets []*bucket, p pace) {
	now := l.clock()
	queries := make([]query, 0, len(buckets))
	for _, b := range buckets {
		b.listed[p].Store(false) // First: what is taken from here on lists it again.
		if q := b.newQuery(now); q.reported != 0 {
			queries = append(queries, q)
		}
	}
	if len(queries) == 0 {
		return
	}
	usable := l.usable(now)
	groups := perSlot(l.clustered, queries)
	errs := make([]error, len(groups))
	switch {
	case !usable:
	case len(groups) == 1:
		_, errs[0] = l.ask(context.Background(), 0, groups[0])
	default:
		errs = l.askAll(context.Background(), groups)
	}
	for i, group := range groups {
		if errs[i] != nil {
			l.fail(group[0].bucket.tenant, errs[i])
		}
		for _, q := range group {
			q.bucket.apply(now, q, usable && errs[i] == nil)
		}
	}
}
