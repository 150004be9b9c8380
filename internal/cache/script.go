package cache

import (
	"github.com/redis/go-redis/v9"
)

// A value is kept as a string: a mark, by which it is known as one of ours, its version, and the bytes.
const (
	mark        = "\xc1\x01" // no text begins like this
	versionSize = 12
	headSize    = len(mark) + versionSize
)

// What a script replies about one key.
const (
	stateNone    = 0 // there is no value of ours
	stateDone    = 1
	stateRefused = 2 // the condition does not hold
	stateFull    = 3 // the quota is used up, or the reply is full
	stateText    = 4 // the value is no number, or the sum is too large
)

// getScript returns values. KEYS: their keys. ARGV: how many bytes the reply may have; the first value is returned in any case.
// The reply has for each key: its state, the value, and the milliseconds until it expires.
const getScript = `
local most = tonumber(ARGV[1])
local left, reply = most, {}
for i, key in ipairs(KEYS) do
	local size, ttl = redis.pcall('STRLEN', key), redis.call('PTTL', key)
	reply[i] = {0, '', 0}
	if type(size) == 'number' and size > 0 and ttl >= 0 then
		if size > left and left < most then
			reply[i] = {3, '', 0}
		else
			reply[i] = {1, redis.call('GET', key), ttl}
			left = left - size
		end
	end
end
return reply
`

// usageLua begins the scripts that write. KEYS[1] is the usage of the tenant: a hash of how many bytes expire in which bucket of
// 256 seconds, their total, and the bucket in which it was added up. Values that expire leave it with their bucket; those that
// Redis evicts are counted until then. ARGV[1]: the milliseconds since 1970. ARGV[2]: how many bytes the tenant may have; 0 is no
// limit.
const usageLua = `
local usage, now, most = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local bucketOf = function(ttl) return string.format('%.0f', math.floor((now + ttl) / 256000)) end
local current = tonumber(bucketOf(0))
local known = redis.pcall('HMGET', usage, 'total', 'swept')
if known.err then
	redis.call('DEL', usage)
	known = {}
end
-- number reads one that these scripts wrote; something else is nil.
local number = function(text)
	if not text or #text > 15 or not string.find(text, '^%d+$') then return nil end
	return tonumber(text)
end
local total, swept = number(known[1]), number(known[2])
if not total or swept ~= current then
	total = 0
	local all = redis.call('HGETALL', usage)
	for i = 1, #all, 2 do
		local bucket, bytes = number(all[i]), number(all[i + 1])
		if bucket and bytes and bucket >= current then
			total = total + bytes
		else
			redis.call('HDEL', usage, all[i])
		end
	end
end
local sizeOf = function(key, value) return #key + #value + 64 end
-- count adds bytes to the bucket in which they expire, and never leaves less than none there. The bucket may be gone: Redis evicts
-- the usage like any other key, and the clocks of two processes differ.
local count = function(bytes, ttl)
	local bucket = bucketOf(ttl)
	local before = number(redis.call('HGET', usage, bucket)) or 0
	local after = math.max(before + bytes, 0)
	redis.call('HSET', usage, bucket, string.format('%.0f', after))
	total = math.max(total + after - before, 0)
end
local save = function()
	redis.call('HSET', usage, 'total', string.format('%.0f', total), 'swept', current)
	redis.call('PEXPIRE', usage, 2678400000)
end
-- find returns the version, the size and the time to live of a value of ours.
local find = function(key)
	local head, ttl = redis.pcall('GETRANGE', key, 0, 13), redis.call('PTTL', key)
	if type(head) ~= 'string' or #head < 14 or string.sub(head, 1, 2) ~= '\193\1' or ttl < 0 then return nil end
	return {version = string.sub(head, 3), size = redis.call('STRLEN', key) + #key + 64, ttl = ttl}
end
local full = function(more) return most > 0 and more > 0 and total + more > most end
-- holds reports whether a condition holds: none, absent, present, or = with versions side by side.
local holds = function(condition, old)
	if condition == '' then return true end
	if condition == 'absent' then return not old end
	if condition == 'present' then return old ~= nil end
	for at = 2, #condition, 12 do
		if old and string.sub(condition, at, at + 11) == old.version then return true end
	end
	return false
end
`

// setScript sets values. KEYS[2] and on: their keys. ARGV[3] and on, for each: the value with its head, the milliseconds until it
// expires, and the condition. The reply is the state of each.
const setScript = usageLua + `
local reply = {}
for i = 2, #KEYS do
	local key, value, ttl, condition = KEYS[i], ARGV[3 * i - 3], tonumber(ARGV[3 * i - 2]), ARGV[3 * i - 1]
	local old, size = find(key), sizeOf(key, value)
	if not holds(condition, old) then
		reply[i - 1] = 2
	elseif full(size - (old and old.size or 0)) then
		reply[i - 1] = 3
	else
		redis.call('SET', key, value, 'PX', ttl)
		if old then count(-old.size, old.ttl) end
		count(size, ttl)
		reply[i - 1] = 1
	end
end
save()
return reply
`

// deleteScript removes KEYS[2], whatever it is, if the condition in ARGV[3] holds. The reply is its state.
const deleteScript = usageLua + `
local old = find(KEYS[2])
if not holds(ARGV[3], old) then return 2 end
redis.call('DEL', KEYS[2])
if not old then return 0 end
count(-old.size, old.ttl)
save()
return 1
`

// incrementScript adds ARGV[3] to the number in KEYS[2]. ARGV[4]: the milliseconds until a new one expires. ARGV[5]: the head of
// the value. Redis itself adds, since Lua's numbers have 53 bits only: the key holds the bare digits meanwhile. The reply: the
// state, the sum in digits, and the milliseconds until it expires.
const incrementScript = usageLua + `
local key, delta, ttl = KEYS[2], ARGV[3], tonumber(ARGV[4])
local old = find(key)
local before = old and redis.call('GET', key)
local digits = old and string.sub(before, 15) or '0'
local size = sizeOf(key, before or '') + 20
if #digits > 20 or digits ~= '0' and not string.find(digits, '^%-?[1-9]%d*$') then return {4, '', 0} end
if not old and full(size) then return {3, '', 0} end
if old then
	redis.call('SET', key, digits, 'KEEPTTL')
else
	redis.call('SET', key, digits, 'PX', ttl)
end
local failed = type(redis.pcall('INCRBY', key, delta)) ~= 'number'
local sum = redis.call('GET', key)
local negative = function(text) return string.sub(text, 1, 1) == '-' end
-- Not every server notices that the sum is too large.
if failed or negative(digits) == negative(delta) and negative(sum) ~= negative(delta) then
	if old then
		redis.call('SET', key, before, 'KEEPTTL')
	else
		redis.call('DEL', key)
	end
	return {4, '', 0}
end
redis.call('SET', key, ARGV[5] .. sum, 'KEEPTTL')
if not old then
	count(sizeOf(key, ARGV[5] .. sum), ttl)
	save()
end
return {1, sum, redis.call('PTTL', key)}
`

// expireScript has KEYS[2] expire in ARGV[3] milliseconds. The reply: the state, and the version.
const expireScript = usageLua + `
local old = find(KEYS[2])
if not old then return {0, ''} end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
count(-old.size, old.ttl)
count(old.size, tonumber(ARGV[3]))
save()
return {1, old.version}
`

// scripts are all of them.
type scripts struct{ get, set, remove, increment, expire *redis.Script }

func newScripts() scripts {
	return scripts{
		get: redis.NewScript(getScript), set: redis.NewScript(setScript), remove: redis.NewScript(deleteScript),
		increment: redis.NewScript(incrementScript), expire: redis.NewScript(expireScript),
	}
}
