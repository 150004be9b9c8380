package message

import (
	"context"
	"sync"
	"time"

	"plinth/internal/loop"
)

// Rules of an endpoint.
const (
	breakerFailures = 5 // in a row, after which no calls are made for a while
	breakerMin      = time.Second
	breakerMax      = time.Minute
	// An endpoint that is overloaded is left alone for overloadMin at least, and for up to overloadMax if it does not say until when.
	overloadMin   = time.Second
	overloadMax   = time.Minute
	maxRetryAfter = time.Hour
)

// answer is what a call says about its endpoint.
type answer uint8

const (
	saysNothing  answer = iota // the call was not made, or was cancelled
	saysTaken                  // it took the message
	saysDeclined               // it answered otherwise, of the message
	saysOverload               // it has too much to do
	saysFailing                // it is away or broken
	saysTimeout                // both of these
)

// endpoint decides how many calls of a push may be made at a time. It begins with one. While all that may be made are made, each one
// that succeeds adds one, which doubles them in the time of a call (slow start); above what was too much before, the calls of that time
// together add one. Where a call tells of an overload they are halved, once for what was under way. After breakerFailures in a row
// none are made for a time, which doubles up to breakerMax, and then one finds out.
type endpoint struct {
	now   func() time.Time
	mu    sync.Mutex
	freed chan struct{} // has a token after a call has ended, or more may be made

	most      int
	limit     float64 // calls at a time, 1 to most
	threshold float64 // up to where it grows fast
	inFlight  int
	full      time.Time // when all calls that may be made were last made
	cut       time.Time // of the last halving
	overloads int       // halvings since a call succeeded
	failures  int       // in a row
	until     time.Time // before that no calls are made

	latency               time.Duration
	succeededAt, failedAt time.Time
	problem               string // of the call at failedAt
	changed               bool   // since figures was called
}

func newEndpoint(most int) *endpoint {
	return &endpoint{now: time.Now, freed: make(chan struct{}, 1), most: most, limit: 1, threshold: float64(most)}
}

// resize sets the most calls at a time.
func (e *endpoint) resize(most int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.most = most
	e.limit, e.threshold = min(e.limit, float64(most)), float64(most)
	loop.Signal(e.freed)
}

// reset forgets what was learned of an endpoint, for another one.
func (e *endpoint) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.limit, e.threshold, e.failures, e.overloads, e.until, e.changed = 1, float64(e.most), 0, 0, time.Time{}, true
	loop.Signal(e.freed)
}

// refuse records why no calls can be made at all.
func (e *endpoint) refuse(problem string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.problem, e.failedAt, e.changed = problem, e.now(), true
}

// held returns for how long no calls may be made.
func (e *endpoint) held() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.until.Sub(e.now())
}

// allowed returns how many calls may be made at a time.
func (e *endpoint) allowed() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current()
}

// current returns how many calls may be made at a time. The lock is held.
func (e *endpoint) current() int {
	if e.failures >= breakerFailures {
		return 1
	}
	return int(e.limit)
}

// room blocks until one more call may be made. It returns false if ctx has ended. One goroutine calls it, and begin.
func (e *endpoint) room(ctx context.Context) bool {
	for {
		e.mu.Lock()
		free := e.inFlight < e.current()
		e.mu.Unlock()
		if free {
			return ctx.Err() == nil
		}
		select {
		case <-e.freed:
		case <-ctx.Done():
			return false
		}
	}
}

// call is one call.
type call struct {
	endpoint *endpoint
	began    time.Time
}

// begin begins a call. Its end must be called once.
func (e *endpoint) begin() *call {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inFlight++
	e.changed = true
	c := &call{e, e.now()}
	if e.inFlight >= e.current() {
		e.full = c.began
	}
	return c
}

// end ends a call.
func (c *call) end() {
	e := c.endpoint
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inFlight--
	e.changed = true
	loop.Signal(e.freed)
}

// told records what came of a call, which took a time. It returns how long an overloaded endpoint is left alone.
func (c *call) told(j judged, took time.Duration) (wait time.Duration) {
	e := c.endpoint
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if j.says != saysNothing {
		e.learn(took)
		if j.err != nil {
			e.problem, e.failedAt = said(j.err), now
		}
	}
	switch j.says {
	case saysTaken:
		e.succeededAt, e.failures, e.overloads = now, 0, 0
		if !e.full.Before(c.began) && !c.began.Before(e.cut) {
			e.grow()
		}
	case saysDeclined:
		e.failures = 0
	case saysOverload:
		e.halve(c, now)
		if wait = loop.Delay(max(1, e.overloads), overloadMin, overloadMax); j.after != nil {
			wait = max(*j.after, overloadMin) // Calls that count as no attempts must not follow each other for as long as it lasts.
		}
		e.hold(now.Add(wait))
	case saysTimeout:
		e.halve(c, now)
		e.fail(now)
	case saysFailing:
		e.fail(now)
	case saysNothing:
	}
	return wait
}

// learn adds a call to the latency, which is an average of about the last eight.
func (e *endpoint) learn(took time.Duration) {
	if e.latency == 0 {
		e.latency = took
	}
	e.latency += (took - e.latency) / 8
}

func (e *endpoint) grow() {
	if e.limit < e.threshold {
		e.limit++
	} else {
		e.limit += 1 / e.limit
	}
	e.limit = min(e.limit, float64(e.most))
}

// halve halves the limit, unless that was done since the call began.
func (e *endpoint) halve(c *call, now time.Time) {
	if c.began.Before(e.cut) {
		return
	}
	e.cut = now
	e.overloads++
	e.limit = max(1, e.limit/2)
	e.threshold = e.limit
}

func (e *endpoint) hold(until time.Time) {
	if until.After(e.until) {
		e.until = until
	}
}

// fail counts a failure in a row. Those that end while no calls are made belong to what opened the breaker.
func (e *endpoint) fail(now time.Time) {
	if e.failures >= breakerFailures && now.Before(e.until) {
		return
	}
	if e.failures++; e.failures == breakerFailures {
		e.limit, e.threshold = 1, max(1, e.limit/2)
	}
	if e.failures >= breakerFailures {
		e.hold(now.Add(loop.Delay(e.failures-breakerFailures+1, breakerMin, breakerMax)))
	}
}

// breaker states, as the table has them.
const (
	breakerClosed   = "closed"
	breakerOpen     = "open"
	breakerHalfOpen = "half_open"
)

// pushFigures are those of an endpoint in one worker.
type pushFigures struct {
	breaker                        string
	resumeAt, succeededAt, erredAt time.Time
	outstanding, concurrency       int
	latency                        time.Duration
	problem                        string
}

// figures returns the figures, and whether there are calls to tell of. changed is false if nothing has happened since the last time.
func (e *endpoint) figures() (f pushFigures, live, changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f = pushFigures{
		breaker: breakerClosed, succeededAt: e.succeededAt, erredAt: e.failedAt, outstanding: e.inFlight, concurrency: e.current(),
		latency: e.latency, problem: e.problem,
	}
	held := e.now().Before(e.until)
	if held {
		f.resumeAt = e.until
	}
	if e.failures >= breakerFailures {
		f.breaker = breakerHalfOpen
		if held {
			f.breaker = breakerOpen
		}
	}
	changed, e.changed = e.changed, false
	return f, held || e.inFlight > 0 || e.failures >= breakerFailures, changed
}
