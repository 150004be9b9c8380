package kv

import "time"

// pause is how long an empty bucket of a rate that is taken ahead is left alone. To ask for each of its tokens as it comes
// back would cost a question a token.
const pause = 2 * time.Millisecond

// claim is the part of one Take that concerns one limit.
type claim struct {
	*entry
	rate     Rate
	state    state
	flying   bool  // it sent for tokens ahead, and lands when they are here
	expires  int64 // of the tokens ahead that it has
	decision Decision
}

// state says what a claim has.
type state uint8

const (
	refused   state = iota
	fromAhead       // tokens that had been taken ahead
	fromOwn         // tokens of this process's own bucket
	missing         // nothing: it is for Redis to decide
)

// reserve has the claims take what is there ahead. It says whether Redis must be asked for the rest, and decides if not.
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
	r := c.rate
	if now >= c.expiry {
		c.ahead = 0
	}
	level, wait := c.shared.read(now, r), time.Duration(0)
	if c.ahead >= n {
		c.state, c.expires = fromAhead, c.expiry
		c.ahead -= n
		c.asked += float64(n)
	} else if wait = c.wait(now, level, n, r); wait > 0 {
		c.state = refused
		c.asked += float64(min(n, r.Count))
	} else {
		c.state = missing
	}
	c.decide(level, c.ahead, wait)
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
	switch {
	case c.state == fromOwn:
		c.count(now, -n, c.rate)
	case c.state == fromAhead && c.expires == c.expiry:
		c.ahead += n
	}
}

// inFlight gives the flight of a claim that has nothing, if there is one.
func inFlight(claims []claim) (flight chan struct{}) {
	for i := range claims {
		if c := &claims[i]; c.state == missing && flight == nil {
			c.mu.Lock()
			flight = c.flight
			c.mu.Unlock()
		}
	}
	return flight
}

// depart says how many tokens to take ahead: as many as would be asked for in half a hold at the pace since the last time,
// and at most twice as many as were. Half a hold, since calls come unevenly and what is left over is wasted. One call at a
// time takes ahead.
func (c *claim) depart(now, n int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rate
	most := r.ahead()
	if most == 0 || c.flight != nil {
		c.asked += float64(n)
		return 0
	}
	pace := c.asked / float64(max(now-c.departed, 1))
	want := int64(min(float64(most), 2*c.asked, pace*float64(r.hold())/2))
	c.departed, c.asked = now, float64(n)
	if want > 0 {
		c.flight, c.flying = make(chan struct{}), true
	}
	return want
}

// arrive keeps what Redis answered. It was asked at sent, and that is how old the answer is taken to be.
func (c *claim) arrive(sent, now, n int64, taken bool, b bucket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rate
	c.shared = meter{level: b.level, at: sent}
	if r.ahead() > 0 && r.wait(b.level, 1) > 0 {
		c.resume = now + int64(pause)
	}
	if b.ahead > 0 {
		c.ahead, c.expiry = b.ahead, sent+int64(r.hold())
	}
	wait := time.Duration(0)
	if taken {
		c.count(now, n+b.ahead, r)
	} else {
		wait = c.wait(sent, b.level, n, r)
	}
	c.decide(b.level, b.ahead, wait)
	c.land()
}

// land ends the flight of this claim, if it has one. The entry's mutex is held.
func (c *claim) land() {
	if c.flying {
		close(c.flight)
		c.flight, c.flying = nil, false
	}
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
	c.land()
	r := c.rate
	c.state = refused
	wait := r.wait(c.own.read(now, r), n)
	if wait == 0 {
		c.state = fromOwn
		c.count(now, n, r)
	}
	c.decide(c.own.read(now, r), 0, wait)
}

// decide keeps the decision of a bucket at a level that counts some tokens which can be had.
func (c *claim) decide(level float64, ahead int64, wait time.Duration) {
	r := c.rate
	c.decision = Decision{
		Allowed: wait == 0, Limit: r, Key: c.key, Remaining: r.remaining(level - float64(ahead)), RetryAfter: wait, Reset: r.reset(level),
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
