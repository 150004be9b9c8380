package kv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	keyPrefix = "plinth:rate:"
	// probeKey is written to see whether Redis takes writes.
	probeKey = "plinth:rate-probe"
	// untoldShare is the share of Rate.Count that a process may take before it tells Redis.
	untoldShare = 100
	// slack is the part of a token that sums of floating point numbers may be off, here and in gcra.
	slack = 1e-6
	// never is the wait for more tokens than the rate has.
	never = time.Duration(math.MaxInt64)
)

// gcra adds to each bucket in KEYS the tokens that were taken before and not told yet, at the time when the last of them was
// taken or that of the last change, whichever is later, and then takes n tokens of each, or of none where one of them has too
// few.
//
// A bucket is written as its level, which is how many of its tokens are used, and the time of that in microseconds. The
// level drains at the rate, and n tokens are taken only if it stays at or below the rate's count: GCRA, whose theoretical
// arrival time is now + level × Per/Count. What is told may raise it above. An empty bucket is one that is not there, so each
// expires when it has drained.
//
// ARGV: n, and for all buckets in one text, since numbers one by one cost the client more than all the rest: the count, the
// microseconds of the rate, the tokens that are told, below 0 where some are given back, and how many microseconds ago the last
// of them was taken. The reply: 1 or 0 for taken, and in one text the level of each bucket.
const gcra = `
local time = redis.call('TIME')
local now = time[1] * 1e6 + time[2]
local n, slack, taken = tonumber(ARGV[1]), 1e-6, 1
local buckets, values = {}, redis.call('MGET', unpack(KEYS))
for count, per, told, ago in string.gmatch(ARGV[2], '(%S+) (%S+) (%S+) (%S+)') do
	local drain = count / per
	local level, at = string.match(values[#buckets + 1] or '0 0', '^(%S+) (%S+)$')
	level = math.max(0, math.max(0, level - (math.max(0, now - at) - ago) * drain) + told)
	level = math.max(0, level - ago * drain)
	if n > 0 and level + n - count > slack then taken = 0 end
	table.insert(buckets, {level = level, drain = drain, told = told ~= '0'})
end
local levels = {}
for i, b in ipairs(buckets) do
	if taken == 1 then b.level = b.level + n end
	local text = string.format('%.17g', b.level)
	if taken == 1 or b.told then
		local ttl = math.max(1, math.ceil(b.level / b.drain / 1000))
		redis.call('SET', KEYS[i], string.format('%s %.0f', text, now), 'PX', string.format('%.0f', ttl))
	end
	levels[i] = text
end
return {taken, table.concat(levels, ' ')}
`

// bucket is one bucket that Redis is asked for.
type bucket struct {
	key   string
	rate  Rate
	told  int64         // tokens that were taken before
	ago   time.Duration // how long before, the last of them
	level float64       // afterwards
}

// ask runs gcra. An error is Redis being away: one that ctx's end would bring does not count, so only the values of ctx are
// used.
func (l *Limiter) ask(ctx context.Context, n int64, buckets []bucket) (taken bool, err error) {
	keys := make([]string, len(buckets))
	rates := make([]byte, 0, 32*len(buckets))
	for i, b := range buckets {
		keys[i] = b.key
		rates = append(strconv.AppendInt(rates, b.rate.Count, 10), ' ')
		rates = append(strconv.AppendInt(rates, b.rate.Per.Microseconds(), 10), ' ')
		rates = append(strconv.AppendInt(rates, b.told, 10), ' ')
		rates = append(strconv.AppendInt(rates, b.ago.Microseconds(), 10), ' ')
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.patience)
	defer cancel()
	// The client may be set to wait longer, so it is not waited for here.
	answer := make(chan *redis.Cmd, 1)
	go func() { answer <- l.script.Run(ctx, l.client, keys, n, rates) }()
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
	if len(reply) != 2 {
		return false, errors.New("the reply of the script has another length")
	}
	levels, _ := reply[1].(string)
	for i := range buckets {
		var level string
		level, levels, _ = strings.Cut(levels, " ")
		if buckets[i].level, err = strconv.ParseFloat(level, 64); err != nil {
			return false, fmt.Errorf("the reply of the script: %w", err)
		}
	}
	return reply[0] == int64(1), nil
}

// drain is how many tokens come back in a nanosecond.
func (r Rate) drain() float64 { return float64(r.Count) / float64(r.Per) }

// untold is how many tokens a process may take before it tells Redis; 0 if it has to ask for each.
func (r Rate) untold() int64 { return r.Count / untoldShare }

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
