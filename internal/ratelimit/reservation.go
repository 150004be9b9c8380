package ratelimit

import (
	"time"

	"plinth/internal/auth"
)

// reservation is the part of one Take that concerns one limit.
type reservation struct {
	*bucket
	kind     string
	rate     rate
	state    state
	pace     pace // of reporting what is unreported
	decision Decision
}

// state is where the tokens of a reservation come from.
type state uint8

const (
	refused    state = iota // there are none
	local                   // from this process's own count
	unreported              // likewise, and Redis is to hear of them
	asked                   // Redis decides
	shared                  // from Redis
)

// reserve has the reservations take what Redis need not be asked for. It reports whether Redis must be asked for the rest, and
// returns the decision if not.
func reserve(now, n int64, all []reservation) (ask bool, d Decision) {
	refuse := false
	for i := range all {
		r := &all[i]
		r.reserve(now, n)
		refuse = refuse || r.state == refused
		ask = ask || r.state == asked
	}
	if refuse {
		release(now, n, all)
	} else if ask {
		return true, d
	}
	return false, tightest(all)
}

func (r *reservation) reserve(now, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rate, pending := r.rate, r.unreported+r.reporting+n
	r.bucket.rate = rate
	level := r.shared.read(now, rate)
	wait := rate.wait(level, n)
	switch {
	case wait > 0:
		r.state = refused
	case pending <= rate.maxUnreported() && level+float64(n) <= float64(rate.Count)/2:
		r.state = unreported
		if r.take(now, n); 2*pending < rate.maxUnreported() {
			r.pace = late
		}
		level += float64(n)
	default:
		r.state = asked
	}
	r.decide(level, wait)
}

// take counts n tokens that are to be reported to Redis. A negative n returns tokens.
func (r *reservation) take(now, n int64) {
	r.unreported += n
	r.takenAt = now
	r.shared.add(now, n, r.rate)
	r.addLocal(now, n, r.rate)
}

// release returns the tokens of the reservations.
func release(now, n int64, all []reservation) {
	for i := range all {
		all[i].release(now, n)
	}
}

func (r *reservation) release(now, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.state {
	case local:
		r.addLocal(now, -n, r.rate)
	case unreported, shared:
		r.take(now, -n)
		r.state = unreported
	}
}

// settle records what Redis decided about n tokens, and the level that it replied.
func (r *reservation) settle(now, n int64, taken bool, level float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := time.Duration(0)
	if taken {
		r.state = shared
		r.addLocal(now, n, r.rate)
	} else {
		wait = r.rate.wait(level, n)
	}
	r.decide(level, wait)
}

// takeLocal takes tokens from this process's own counts, of all limits or of none.
func takeLocal(now, n int64, all []reservation) Decision {
	refuse := false
	for i := range all {
		all[i].takeLocal(now, n)
		refuse = refuse || all[i].state == refused
	}
	if refuse {
		release(now, n, all)
	}
	return tightest(all)
}

func (r *reservation) takeLocal(now, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = refused
	wait := r.rate.wait(r.local.read(now, r.rate), n)
	if wait == 0 {
		r.state = local
		r.addLocal(now, n, r.rate)
	}
	r.decide(r.local.read(now, r.rate), wait)
}

// decide sets the decision, from the level of the bucket and the wait for the tokens.
func (r *reservation) decide(level float64, wait time.Duration) {
	r.decision = Decision{
		Allowed: wait == 0, Limit: auth.Rate(r.rate), Kind: r.kind,
		Remaining: r.rate.remaining(level), RetryAfter: wait, Reset: r.rate.reset(level),
	}
}

// tightest returns the decision about all reservations.
func tightest(all []reservation) Decision {
	if len(all) == 0 {
		return Decision{Allowed: true}
	}
	d := &all[0].decision
	for i := range all[1:] {
		if other := &all[i+1].decision; other.tighter(d) {
			d = other
		}
	}
	if d.RetryAfter == never {
		d.RetryAfter = 0
	}
	return *d
}

func (d *Decision) tighter(than *Decision) bool {
	if !d.Allowed || !than.Allowed {
		return d.RetryAfter > than.RetryAfter
	}
	return float64(d.Remaining)*float64(than.Limit.Count) < float64(than.Remaining)*float64(d.Limit.Count)
}
