package ratelimit

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// gcra adds to each bucket in KEYS the tokens that were taken before and are reported now, as of the time when the last of them
// was taken or the bucket last changed, whichever is later. Then it takes n tokens of each, or of none if one of them has too
// few.
//
// A bucket is written as its level, which is how many of its tokens are used, and the time of that in microseconds. The
// level drains at the rate, and n tokens are taken only if it stays at or below the rate's count: GCRA, whose theoretical
// arrival time is now + level × Per/Count. Reported tokens may raise it above. An empty bucket is one that does not exist, so
// each expires when it has drained.
//
// ARGV: n, and for all buckets in one text, since numbers one by one cost the client more than all the rest: the count, the
// microseconds of the rate, the reported tokens, which are negative if some are given back, and how many microseconds ago the
// last of them was taken. The reply: 1 or 0 for taken, and in one text the level of each bucket.
const gcra = `
local time = redis.call('TIME')
local now = time[1] * 1e6 + time[2]
local n, slack, taken = tonumber(ARGV[1]), 1e-6, 1
local buckets, values = {}, redis.call('MGET', unpack(KEYS))
for count, per, reported, ago in string.gmatch(ARGV[2], '(%S+) (%S+) (%S+) (%S+)') do
	local drain = count / per
	local level, at = string.match(values[#buckets + 1] or '0 0', '^(%S+) (%S+)$')
	level = math.max(0, math.max(0, level - (math.max(0, now - at) - ago) * drain) + reported)
	level = math.max(0, level - ago * drain)
	if n > 0 and level + n - count > slack then taken = 0 end
	table.insert(buckets, {level = level, drain = drain, changed = reported ~= '0'})
end
local levels = {}
for i, b in ipairs(buckets) do
	if taken == 1 then b.level = b.level + n end
	local text = string.format('%.17g', b.level)
	if taken == 1 or b.changed then
		local ttl = math.max(1, math.ceil(b.level / b.drain / 1000))
		redis.call('SET', KEYS[i], string.format('%s %.0f', text, now), 'PX', string.format('%.0f', ttl))
	end
	levels[i] = text
end
return {taken, table.concat(levels, ' ')}
`

// query is what Redis is asked about one bucket, and its reply.
type query struct {
	bucket   *bucket
	rate     rate
	reported int64         // tokens that were taken before
	ago      time.Duration // how long before, the last of them
	level    float64       // the reply
}

func (q query) slot() string { return q.bucket.slot() }

// badReply is a reply that is not the script's.
type badReply string

func (r badReply) Error() string { return "the reply of the script: " + string(r) }

// RedisError marks it as an error that Redis replied: it is not away.
func (badReply) RedisError() {}

// arguments returns the keys and the second argument of gcra.
func arguments(queries []query) (keys []string, rates []byte) {
	keys = make([]string, len(queries))
	rates = make([]byte, 0, 32*len(queries))
	for i, q := range queries {
		keys[i] = q.bucket.key
		rates = append(strconv.AppendInt(rates, q.rate.Count, 10), ' ')
		rates = append(strconv.AppendInt(rates, q.rate.Per.Microseconds(), 10), ' ')
		rates = append(strconv.AppendInt(rates, q.reported, 10), ' ')
		rates = append(strconv.AppendInt(rates, q.ago.Microseconds(), 10), ' ')
	}
	return keys, rates
}

// ask runs gcra once. The error is always one of Redis, never the end of ctx.
func (l *Limiter) ask(ctx context.Context, n int64, queries []query) (taken bool, err error) {
	keys, rates := arguments(queries)
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	return readReply(l.script.Run(ctx, l.client, keys, n, rates), queries)
}

// askAll runs gcra once for each group, in one pipeline, and takes nothing. It returns an error for each group, nil for those
// that were answered.
func (l *Limiter) askAll(ctx context.Context, groups [][]query) []error {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	cmds := l.pipeline(ctx, groups, l.script.EvalSha)
	var unknown []int // A node that is new does not know the script by its hash.
	var again [][]query
	for i, cmd := range cmds {
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			unknown, again = append(unknown, i), append(again, groups[i])
		}
	}
	for i, cmd := range l.pipeline(ctx, again, l.script.Eval) {
		cmds[unknown[i]] = cmd
	}
	errs := make([]error, len(groups))
	for i := range errs {
		_, errs[i] = readReply(cmds[i], groups[i])
	}
	return errs
}

// bounded returns a context in which a reply has its time, to which the client keeps. The end of ctx does not count, only its values do.
func (l *Limiter) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), l.replyLimit)
}

func (l *Limiter) pipeline(
	ctx context.Context, groups [][]query, run func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd,
) []*redis.Cmd {
	cmds := make([]*redis.Cmd, len(groups))
	_, _ = l.client.Pipelined(ctx, func(pipe redis.Pipeliner) error { // Each command has its own error.
		for i, queries := range groups {
			keys, rates := arguments(queries)
			cmds[i] = run(ctx, pipe, keys, 0, rates)
		}
		return nil
	})
	return cmds
}

func readReply(cmd *redis.Cmd, queries []query) (taken bool, err error) {
	reply, err := cmd.Slice()
	if err != nil {
		return false, err
	}
	if len(reply) != 2 {
		return false, badReply("another length")
	}
	levels, _ := reply[1].(string)
	for i := range queries {
		var level string
		level, levels, _ = strings.Cut(levels, " ")
		if queries[i].level, err = strconv.ParseFloat(level, 64); err != nil {
			return false, badReply(err.Error())
		}
	}
	return reply[0] == int64(1), nil
}
