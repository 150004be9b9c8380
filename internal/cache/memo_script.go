package cache

import (
	"context"

	"github.com/redis/go-redis/v9"

	"plinth/internal/auth"
	"plinth/internal/kv"
)

// A memo has three keys. Its value; its lease, which is the token of who loads it now; and its marks, a sorted set of the tokens of
// transactions that are about to change what was loaded, by when their marks end, and of "last", which is when it was invalidated,
// as a negative number.
func memoKeys(ctx context.Context, keys ...Key) []string {
	tenant, names := auth.TenantOf(ctx), make([]string, 0, 3*len(keys))
	for _, k := range keys {
		names = append(names, memoName(tenant, k), kv.Key(tenant, "cache-lease", k.key), kv.Key(tenant, "cache-marks", k.key))
	}
	return names
}

// memoName returns the key of a value.
func memoName(tenant string, k Key) string { return kv.Key(tenant, "cache-memo", k.key) }

const nowLua = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

// acquireScript finds out who loads. ARGV: a token for the lease, its milliseconds, the reader's clock in milliseconds, the tag of
// the type, by how many milliseconds what the loader reads may lag, and 1 to load even if there is a fresh value. The reply is a
// word, the value that there is, fresh or not, and who has the lease:
//
//	fresh    there is a value
//	marked   load, and do not store it: it may be old before it is stored
//	lease    load, and store it while the lease is there
//	wait     somebody else has the lease
const acquireScript = nowLua + `
local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' then value = '' end
if ARGV[6] ~= '1' and string.sub(value, 1, 2) == '\193\2' and string.sub(value, 16, 23) == ARGV[4]
	and tonumber(string.sub(value, 3, 15)) > tonumber(ARGV[3]) then
	return {'fresh', value, ''}
end
local marks = redis.pcall('ZCOUNT', KEYS[3], '(' .. string.format('%.0f', now), '+inf')
if type(marks) ~= 'number' then
	redis.call('DEL', KEYS[3])
	marks = 0
end
local last = redis.call('ZSCORE', KEYS[3], 'last')
if marks > 0 or last and now + tonumber(last) < tonumber(ARGV[5]) then return {'marked', value, ''} end
if redis.call('PTTL', KEYS[2]) == -1 then redis.call('DEL', KEYS[2]) end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {'lease', value, ARGV[1]} end
local holder = redis.pcall('GET', KEYS[2])
if type(holder) ~= 'string' then holder = '' end
return {'wait', value, holder}
`

// keepScript is for who has the lease in ARGV[1]: with a value in ARGV[2] it stores it for ARGV[3] milliseconds and ends the lease,
// or else has the lease last for ARGV[3] milliseconds, and ends it with 0. The reply is 0 if the lease is not there: then what was
// loaded may be old, and is not stored.
const keepScript = `
if redis.pcall('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
	redis.call('DEL', KEYS[2])
elseif ARGV[3] == '0' then
	redis.call('DEL', KEYS[2])
else
	redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return 1
`

// invalidateScript removes values and leases. KEYS are three for each. ARGV: the token of a transaction, and for how many
// milliseconds its mark lasts; 0 ends the mark and notes when that was.
const invalidateScript = nowLua + `
for i = 1, #KEYS, 3 do
	redis.call('DEL', KEYS[i], KEYS[i + 1])
	local marks = KEYS[i + 2]
	if redis.call('TYPE', marks).ok ~= 'zset' then redis.call('DEL', marks) end
	local keep = math.max(60000, tonumber(ARGV[2]), redis.call('PTTL', marks))
	redis.call('ZREMRANGEBYSCORE', marks, 0, now)
	if ARGV[2] == '0' then
		redis.call('ZREM', marks, ARGV[1])
		redis.call('ZADD', marks, -now, 'last')
	else
		redis.call('ZADD', marks, now + tonumber(ARGV[2]), ARGV[1])
	end
	redis.call('PEXPIRE', marks, keep)
end
return 1
`

// memoScripts are those of Remember.
type memoScripts struct{ acquire, keep, invalidate *redis.Script }

func newMemoScripts() memoScripts {
	return memoScripts{
		acquire: redis.NewScript(acquireScript), keep: redis.NewScript(keepScript), invalidate: redis.NewScript(invalidateScript),
	}
}
