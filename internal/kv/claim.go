package kv

import "time"

// claim is the part of one Take that concerns one limit.
type claim struct {
	*entry
	kind     string
	rate     Rate
	state    state
	pace     pace // of what is deferred
	decision Decision
}

// state says what a claim has.
type state uint8

const (
	refused  state = iota
	fromOwn        // tokens of this process's own bucket
	deferred       // tokens that Redis is told of later
	missing        // nothing: it is for Redis to decide
)

// reserve has the claims take what need not be asked for. It says whether Redis must be asked for the rest, and decides if
// not.
func reserve(now, n int64, claims []claim) (ask bool, d Decision) {
	refuse := false
	for i := range claims {
		c := &claims[i]
		c.reserve(now, n)
		refuse = refuse || c.state == refused
		ask = ask || c.state == missing
	}
	if refuse {
		release(now, n, claims)
	} else if ask {
		return true, d
	}
	return false, tightest(claims)
}

func (c *claim) reserve(now, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, untold := c.rate, c.untold+c.telling+n
	c.entry.rate = r
	level := c.shared.read(now, r)
	wait := r.wait(level, n)
	switch {
	case wait > 0:
		c.state = refused
	case untold <= r.untold() && level+float64(n) <= float64(r.Count)/2:
		c.state = deferred
		if c.take(now, n); 2*untold < r.untold() {
			c.pace = late
		}
		level += float64(n)
	default:
		c.state = missing
	}
	c.decide(level, wait)
}

// take counts n tokens that Redis is to be told of.
func (c *claim) take(now, n int64) {
	c.untold += n
	c.takenAt = now
	c.shared.add(now, n, c.rate)
	c.count(now, n, c.rate)
}

// release gives back what the claims have.
func release(now, n int64, claims []claim) {
	for i := range claims {
		claims[i].release(now, n)
	}
}

func (c *claim) release(now, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case fromOwn:
		c.count(now, -n, c.rate)
	case deferred:
		c.take(now, -n)
	}
}

// settle keeps the decision of Redis about n tokens.
func (c *claim) settle(now, n int64, taken bool, b bucket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := time.Duration(0)
	if taken {
		c.count(now, n, c.rate)
	} else {
		wait = c.rate.wait(b.level, n)
	}
	c.decide(b.level, wait)
}

// takeOwn takes from this process's own buckets, from all or from none.
func takeOwn(now, n int64, claims []claim) Decision {
	refuse := false
	for i := range claims {
		claims[i].takeOwn(now, n)
		refuse = refuse || claims[i].state == refused
	}
	if refuse {
		release(now, n, claims)
	}
	return tightest(claims)
}

func (c *claim) takeOwn(now, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rate
	c.state = refused
	wait := r.wait(c.own.read(now, r), n)
	if wait == 0 {
		c.state = fromOwn
		c.count(now, n, r)
	}
	c.decide(c.own.read(now, r), wait)
}

// decide keeps the decision of a bucket at a level.
func (c *claim) decide(level float64, wait time.Duration) {
	r := c.rate
	c.decision = Decision{
		Allowed: wait == 0, Limit: r, Kind: c.kind, Remaining: r.remaining(level), RetryAfter: wait, Reset: r.reset(level),
	}
}

// tightest is the decision of all claims.
func tightest(claims []claim) Decision {
	if len(claims) == 0 {
		return Decision{Allowed: true}
	}
	d := &claims[0].decision
	for i := range claims[1:] {
		if other := &claims[i+1].decision; other.tighter(d) {
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
