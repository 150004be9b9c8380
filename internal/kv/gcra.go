package kv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	keyPrefix = "plinth:rate:"
	// probeKey is written to see whether Redis takes writes.
	probeKey = "plinth:rate-probe"
	// longestHold bounds how long tokens taken ahead may be kept.
	longestHold = 50 * time.Millisecond
	// holdShare is the share of Rate.Per that they may be kept, and so the share of Rate.Count that they may be.
	holdShare = 50
	// slack is the part of a token that sums of floating point numbers may be off, here and in gcra.
	slack = 1e-6
	// never is the wait for more tokens than the rate has.
	never = time.Duration(math.MaxInt64)
)

// gcra takes n tokens of each bucket in KEYS, or none where one of them has too few, and then up to a given number ahead.
//
// A bucket is written as its level, which is how many of its tokens are used, and the time of that in microseconds. The
// level drains at the rate and must not go above the rate's count: GCRA, whose theoretical arrival time is now + level ×
// Per/Count. An empty bucket is one that is not there, so each expires when it has drained.
//
// Tokens taken ahead are used within a hold, and counted as if they were taken at its end: the level is first raised to what
// drains during a hold, unless it is above that anyway. So no time W sees more used than Count + W × Count/Per. For let W be
// from a to b. What is used in it was taken at moments t ≤ b with t + hold ≥ a, where hold is 0 for what was used at once.
// The first of these takes left a level of at least what it took and drains from t to a; each of the others added what it
// took, and nothing drained but Count/Per. So after the last one the level was at least all they took, less what drains from
// a to b; and no take leaves a level above Count.
//
// ARGV: n, and for each bucket its count, what it drains in a microsecond, how many tokens to take ahead, and what it
// drains during a hold. The reply: 1 or 0 for taken, and for each bucket its level and how many were taken ahead.
const gcra = `
local time = redis.call('TIME')
local now = time[1] * 1e6 + time[2]
local n, slack, taken = tonumber(ARGV[1]), 1e-6, 1
local buckets, values = {}, redis.call('MGET', unpack(KEYS))
for i = 1, #KEYS do
	local b = {count = tonumber(ARGV[4*i-2]), drain = tonumber(ARGV[4*i-1]), ahead = tonumber(ARGV[4*i]), hold = tonumber(ARGV[4*i+1])}
	local level, at = string.match(values[i] or '', '^(%S+) (%S+)$')
	b.level = level and math.max(0, level - math.max(0, now - at) * b.drain) or 0
	if b.level + n - b.count > slack then taken = 0 end
	buckets[i] = b
end
local reply = {taken}
for i, b in ipairs(buckets) do
	local ahead = 0
	if taken == 1 then
		local held = math.max(b.level, b.hold) + n
		ahead = math.max(0, math.min(b.ahead, math.floor(b.count - held)))
		b.level = ahead > 0 and held + ahead or b.level + n
		local ttl = math.max(1, math.ceil(b.level / b.drain / 1000))
		redis.call('SET', KEYS[i], string.format('%.17g %.0f', b.level, now), 'PX', string.format('%.0f', ttl))
	end
	reply[2*i] = string.format('%.17g', b.level)
	reply[2*i+1] = ahead
end
return reply
`

// bucket is one bucket that Redis is asked for.
type bucket struct {
	key   string
	rate  Rate
	ahead int64 // tokens to take ahead; afterwards, those that were taken
	level float64
}

// ask runs gcra: n tokens of each bucket or of none, and their levels. An error is Redis being away: one that ctx's end
// would bring does not count, so only the values of ctx are used.
func (l *Limiter) ask(ctx context.Context, n int64, buckets []bucket) (taken bool, err error) {
	keys := make([]string, len(buckets))
	args := make([]any, 1, 1+4*len(buckets))
	args[0] = n
	for i, b := range buckets {
		keys[i] = b.key
		args = append(args, b.rate.Count, b.rate.drain()*float64(time.Microsecond), b.ahead, b.rate.drain()*float64(b.rate.hold()))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.patience)
	defer cancel()
	// The client may be set to wait longer, so it is not waited for here.
	answer := make(chan *redis.Cmd, 1)
	go func() { answer <- l.script.Run(ctx, l.client, keys, args...) }()
	select {
	case cmd := <-answer:
		return readReply(cmd, buckets)
	case <-ctx.Done():
		return false, fmt.Errorf("no answer within %v", l.patience)
	}
}

func readReply(cmd *redis.Cmd, buckets []bucket) (taken bool, err error) {
	reply, err := cmd.Slice()
	if err != nil {
		return false, err
	}
	if len(reply) != 1+2*len(buckets) {
		return false, errors.New("the reply of the script has another length")
	}
	for i := range buckets {
		level, _ := reply[1+2*i].(string)
		if buckets[i].level, err = strconv.ParseFloat(level, 64); err != nil {
			return false, fmt.Errorf("the reply of the script: %w", err)
		}
		buckets[i].ahead, _ = reply[2+2*i].(int64)
	}
	return reply[0] == int64(1), nil
}

// drain is how many tokens come back in a nanosecond.
func (r Rate) drain() float64 { return float64(r.Count) / float64(r.Per) }

// hold is how long tokens taken ahead may be kept.
func (r Rate) hold() time.Duration { return min(r.Per/holdShare, longestHold) }

// ahead is how many tokens may be taken ahead: what comes back during a hold.
func (r Rate) ahead() int64 { return int64(r.drain() * float64(r.hold())) }

// wait is how long it takes until n tokens fit on a level, in whole microseconds; 0 if they do.
func (r Rate) wait(level float64, n int64) time.Duration {
	if n > r.Count {
		return never
	}
	over := level + float64(n) - float64(r.Count)
	if over <= slack {
		return 0
	}
	return time.Duration(math.Ceil(over/r.drain()/float64(time.Microsecond))) * time.Microsecond
}

// remaining is how many tokens fit on a level.
func (r Rate) remaining(level float64) int64 { return max(0, int64(float64(r.Count)-level+slack)) }

// reset is how long it takes until a level has drained.
func (r Rate) reset(level float64) time.Duration { return time.Duration(level / r.drain()) }

// meter is a bucket in this process: a level at a time of the Limiter's clock.
type meter struct {
	level float64
	at    int64
}

func (m meter) read(now int64, r Rate) float64 {
	return max(0, m.level-float64(max(0, now-m.at))*r.drain())
}

// add counts n tokens more; less than 0 gives tokens back that were added a moment ago.
func (m *meter) add(now, n int64, r Rate) {
	m.level = max(0, m.read(now, r)+float64(n))
	m.at = max(m.at, now)
}
