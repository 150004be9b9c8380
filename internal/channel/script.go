package channel

import "github.com/redis/go-redis/v9"

// What a tenant has in Redis, all of it in one slot, and all of it expires:
//
//	channel-head    a hash: the epoch, the place of the last message (at) and its tag, the place at which the epoch began, and the
//	                witnesses
//	channel-times   a sorted set: the place of the last message of each channel, and "" as long as the epoch lasts
//	channel-counts  a hash: how many messages a channel had, and "" likewise
//	channel:<name>  a stream, the history of a channel; fields d (the message), n (its number), v (the place of the one before),
//	                s (the bytes of all messages so far) and e (the epoch)
//
// A witness is a pub/sub channel that one connection of one process subscribes to, under a name that is never used again. So as long
// as one that was noted has a subscriber, this is the same server as when it was noted, and it has lost nothing. If there is none,
// a new epoch begins: who comes with a place of another epoch may have missed what the server lost.

// enterLua begins every script. KEYS: head, times, counts. ARGV: the witness of this process, the number of a new epoch, how many
// streams the process has, and whether others are looked for that ended. If the witness has no subscriber here, this is not the server
// that the process listens to, and the reply is {0}. Places are of the clock of Redis: an epoch that began at the moment when a process
// asked might begin before a message that others published meanwhile, and that Redis has lost since, which no gap would have.
const enterLua = `
local function text(number) return string.format('%.0f', number) end
local function watched(witness) return tonumber(redis.call('PUBSUB', 'NUMSUB', witness)[2]) > 0 end
local me, time = ARGV[1], redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
if not watched(me) then return {0} end
local head = redis.pcall('HMGET', KEYS[1], 'epoch', 'at', 'began', 'witnesses')
if head.err then
	redis.call('DEL', KEYS[1])
	head = {}
end
local function number(value) -- one that these scripts wrote; something else is nil
	local n = value and string.find(value, '^%d+$') and tonumber(value)
	return n and n < 9007199254000000 and n or nil
end
local epoch, at, began = head[1] or nil, number(head[2]), number(head[3])
local list, streams = head[4] or '', tonumber(ARGV[3])
local mine = ' ' .. me .. '=' .. ARGV[3] .. ' '
local function kind(key) return redis.call('TYPE', key).ok end
local alive, noted = number(epoch) and at and began and began <= at and kind(KEYS[2]) == 'zset' and kind(KEYS[3]) == 'hash', list
if ARGV[4] == '1' or not string.find(list, mine, 1, true) then
	local some = false
	noted = mine
	for witness, count in string.gmatch(list, '(%S+)=(%d+)') do
		if witness == me then
			some = true
		elseif watched(witness) then
			some = true
			streams = streams + tonumber(count)
			noted = noted .. witness .. '=' .. count .. ' '
		end
	end
	alive = alive and some
end
local function begin()
	redis.call('DEL', KEYS[2], KEYS[3])
	epoch, at = ARGV[2], math.max((at or 0) + 1, now)
	began = at
	redis.call('HSET', KEYS[1], 'epoch', epoch, 'at', text(at), 'began', text(began), 'tag', 0)
	redis.call('ZADD', KEYS[2], text(began), '')
	redis.call('HSET', KEYS[3], '', 0)
end
if not alive then begin() end
if noted ~= list then redis.call('HSET', KEYS[1], 'witnesses', noted) end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], 172800000) end
local function place(value) return value and math.max(tonumber(value), 0) or 0 end
local function entry(e) -- its fields, in the order in which they were written
	return {at = tonumber(string.match(e[1], '^%d+')), d = e[2][2], n = e[2][4], v = e[2][6], s = tonumber(e[2][8]), e = e[2][10]}
end
local function latest(key) -- the last message of a history, or nil; what is no history goes
	local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
	if not last.err and not last[1] then return nil end
	local e = last[1] and entry(last[1])
	if e and e.s and e.e then return e end
	redis.call('DEL', key)
	return nil
end
`

// publishScript publishes a message. KEYS[4]: the history. ARGV[5..]: the most messages of a history, the microseconds and the bytes
// of one, the most channels (0 is no limit), the pub/sub channel, the name, the message, and the hash of its tag. The reply: {1, epoch, place, number}, or
// {2} if there are too many channels.
const publishScript = enterLua + `
local size, age, bytes, most, name, data = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[10], ARGV[11]
local before = redis.call('ZSCORE', KEYS[2], name)
if not before and most > 0 and redis.call('ZCARD', KEYS[2]) > most then
	for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now - 86400000000), 'LIMIT', 0, 1000)) do
		if old ~= '' then
			redis.call('ZREM', KEYS[2], old)
			redis.call('HDEL', KEYS[3], old)
		end
	end
	if redis.call('ZCARD', KEYS[2]) > most then return {2} end
end
local n = redis.pcall('HINCRBY', KEYS[3], name, 1)
if type(n) ~= 'number' then -- What was counted is lost, and with it how many messages anybody missed.
	begin()
	before, n = nil, redis.call('HINCRBY', KEYS[3], name, 1)
end
local p = math.max(at + 1, now)
local last, sum = latest(KEYS[4]), #data
if last then
	if last.at < p then sum = sum + last.s else redis.call('DEL', KEYS[4]) end
end
redis.call('XADD', KEYS[4], 'MAXLEN', size, text(p) .. '-0', 'd', data, 'n', n, 'v', text(place(before)), 's', text(sum), 'e', epoch)
while true do
	local first = entry(redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1])
	if first.at == p or first.at >= now - age and sum - first.s + #first.d <= bytes then break end
	redis.call('XDEL', KEYS[4], text(first.at) .. '-0')
end
redis.call('PEXPIRE', KEYS[4], math.ceil(age / 1000))
redis.call('HSET', KEYS[1], 'at', text(p), 'tag', text(tonumber(ARGV[12]) * 1048576 + n % 1048576))
redis.call('ZADD', KEYS[2], text(p), name)
redis.call('PUBLISH', ARGV[9], table.concat({epoch, text(p), text(at), n, text(place(before)), name, data}, ' '))
return {1, epoch, text(p), n}
`

// listScript lists what histories have. KEYS[4..]: the histories. ARGV[5..]: for each, the name and the place after which its messages
// are listed. The reply: {1, epoch, the last place, where the epoch began, how many streams all processes have, the tag of the last
// message}, and for each history
// {the place of the last message of the channel or 0, its number, how many messages there are, for the first listed one the place
// before it, its number and its epoch, and the places and sizes of those that are listed}.
const listScript = enterLua + `
local counts, lost = {}, false
for i = 4, #KEYS do
	counts[i] = number(redis.call('HGET', KEYS[3], ARGV[2 * i - 3]) or '0')
	lost = lost or not counts[i]
end
if lost then -- as publishScript does
	begin()
	counts = {}
end
local reply = {1, epoch, text(at), text(began), streams, redis.call('HGET', KEYS[1], 'tag') or '0'}
for i = 4, #KEYS do
	local name, after = ARGV[2 * i - 3], ARGV[2 * i - 2]
	local listed = {text(place(redis.call('ZSCORE', KEYS[2], name))), counts[i] or 0, 0, '0', 0, '0'}
	if latest(KEYS[i]) then
		listed[3] = redis.call('XLEN', KEYS[i])
		for j, e in ipairs(redis.call('XRANGE', KEYS[i], text(tonumber(after) + 1) .. '-0', '+')) do
			e = entry(e)
			if j == 1 then listed[4], listed[5], listed[6] = e.v, tonumber(e.n), e.e end
			listed[#listed + 1] = text(e.at)
			listed[#listed + 1] = #e.d
		end
	end
	reply[#reply + 1] = listed
end
return reply
`

// activeScript lists which channels had messages after a place. ARGV[5], ARGV[6]: the place, and its epoch; that of another epoch may be
// ahead of all messages. The reply: the state, as that of listScript, and the names.
const activeScript = enterLua + `
local reply = {1, epoch, text(at), text(began), streams, redis.call('HGET', KEYS[1], 'tag') or '0'}
local after = tonumber(ARGV[5])
if ARGV[6] ~= epoch then after = math.min(after, began) end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. text(after), '+inf')) do -- ZRANGE has it since 6.2.
	if name ~= '' then reply[#reply + 1] = name end
end
return reply
`

type scripts struct{ publish, list, active *redis.Script }

func newScripts() scripts {
	return scripts{publish: redis.NewScript(publishScript), list: redis.NewScript(listScript), active: redis.NewScript(activeScript)}
}
