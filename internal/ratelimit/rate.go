package ratelimit

import (
	"math"
	"time"

	"plinth/internal/auth"
)

const (
	// unreportedShare is the share of Rate.Count that a process may take before it reports to Redis: a hundredth.
	unreportedShare = 100
	// slack is the part of a token by which sums of floating point numbers may be off, here and in the script.
	slack = 1e-6
	// never is the wait for more tokens than the rate has.
	never = time.Duration(math.MaxInt64)
)

// rate is the arithmetic of an auth.Rate that is a limit.
type rate auth.Rate

// drain returns how many tokens come back in a nanosecond.
func (r rate) drain() float64 { return float64(r.Count) / float64(r.Per) }

// maxUnreported returns how many tokens a process may take before it reports to Redis; 0 if it has to ask for each.
func (r rate) maxUnreported() int64 { return r.Count / unreportedShare }

// wait returns how long it takes until n tokens fit on a level, in whole microseconds; 0 if they do.
func (r rate) wait(level float64, n int64) time.Duration {
	if n > r.Count {
		return never
	}
	over := level + float64(n) - float64(r.Count)
	if over <= slack {
		return 0
	}
	return time.Duration(math.Ceil(over/r.drain()/float64(time.Microsecond))) * time.Microsecond
}

// remaining returns how many tokens fit on a level.
func (r rate) remaining(level float64) int64 { return max(0, int64(float64(r.Count)-level+slack)) }

// reset returns how long it takes until a level has drained.
func (r rate) reset(level float64) time.Duration { return time.Duration(level / r.drain()) }

// meter is the level of a bucket at a time of the Limiter's clock.
type meter struct {
	level float64
	at    int64
}

// read returns the level at a later time.
func (m meter) read(now int64, r rate) float64 {
	return max(0, m.level-float64(max(0, now-m.at))*r.drain())
}

// add adds n tokens. A negative n takes back tokens that were added a moment ago.
func (m *meter) add(now, n int64, r rate) {
	m.level = max(0, m.read(now, r)+float64(n))
	m.at = max(m.at, now)
}
