package redis

import goredis "github.com/redis/go-redis/v9"

// All scripts take the value's key and keys of the same hash slot. They answer
// with integers and strings only, publish best effort (an ACL may deny it, and
// polling finds the same), and take durations in milliseconds.
//
// An expiry is given twice: as what is left when the command was sent, and as an
// instant on Redis's own clock, counted from what that clock said in an earlier
// answer. The sooner one wins. So a command that a hung server carries out a
// minute late stores nothing that has died meanwhile, and neither skew between
// clocks nor a failover to a server with another clock can prolong anything.

// enter reads everything about a key and takes the lock unless the value is
// newer than floor and not what the caller judged foreign. One round trip,
// atomic: the read after the lock was taken is the double check.
//
// KEYS value backoff lock; ARGV floor nonce ("" reads only) lockPX maxRaw judged.
// Returns value, its pttl, refusal and its pttl (unless newer), lock (1 ours, 0 another's or
// not asked for, -1 denied), denial, now.
var enter = goredis.NewScript(`
local function read(key, limit)
  local n = redis.pcall('STRLEN', key)
  if type(n) ~= 'number' or n > limit then return '!', redis.call('PTTL', key) end
  local v = redis.call('GET', key)
  if not v then return '', 0 end
  if v == '' then v = '!' end
  return v, redis.call('PTTL', key)
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local value, pttl = read(KEYS[1], tonumber(ARGV[4]))
local refusal, rttl, lock, denial = '', 0, 0, ''
local newer = string.sub(value, 1, 4) == 'oo1 ' and string.sub(value, 5, 53) > ARGV[1]
  and (ARGV[5] == '' or string.sub(value, 1, string.len(ARGV[5])) ~= ARGV[5])
if not newer then refusal, rttl = read(KEYS[2], 256) end
if ARGV[2] ~= '' and not newer then
  local holder = redis.pcall('GET', KEYS[3])
  if holder == ARGV[2] then
    lock = 1
  elseif not holder then
    local r = redis.pcall('SET', KEYS[3], ARGV[2], 'NX', 'PX', ARGV[3])
    if r and r.err then lock, denial = -1, r.err elseif r then lock = 1 end
  end
end
return {value, pttl, refusal, rttl, lock, denial, now}`)

// peek reads a value and what is left of it.
//
// KEYS value; ARGV last byte. Returns value, pttl.
var peek = goredis.NewScript(`return {redis.call('GETRANGE', KEYS[1], 0, ARGV[1]), redis.call('PTTL', KEYS[1])}`)

// store keeps a value if its stamp is newer than the one held, or if what is
// held is no value of ours or begins with what the caller judged foreign; it
// ends the backoff and gives up the lock if that is still ours. It writes the
// life that it gives the value into the value's header: see peekPipelined.
//
// KEYS value backoff lock; ARGV nonce value px pxat judged channel key.
// Returns 1 when stored.
var store = goredis.NewScript(`
local t = redis.call('TIME')
local px = math.min(tonumber(ARGV[3]), tonumber(ARGV[4]) - (t[1] * 1000 + math.floor(t[2] / 1000)))
local n = redis.pcall('STRLEN', KEYS[1])
local held = '!'
if type(n) == 'number' and n <= 131072 then held = redis.call('GET', KEYS[1]) end
local stored = 0
if px > 0 and (not held or string.sub(held, 1, 4) ~= 'oo1 ' or ARGV[5] ~= '' and string.sub(held, 1, string.len(ARGV[5])) == ARGV[5]
    or string.sub(ARGV[2], 5, 53) > string.sub(held, 5, 53)) then
  local life = string.format(' px=%d', px)
  redis.call('SET', KEYS[1], string.sub(ARGV[2], 1, 53) .. life .. string.sub(ARGV[2], 54), 'PX', px)
  redis.call('DEL', KEYS[2])
  stored = 1
end
if ARGV[1] ~= '' and redis.pcall('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
redis.pcall('PUBLISH', ARGV[6], ARGV[7])
return stored`)

// release gives up the lock if it is ours and shares a refusal if there is one.
//
// KEYS backoff lock; ARGV nonce refusal ("" for none) px pxat channel key.
var release = goredis.NewScript(`
if ARGV[2] ~= '' then
  local t = redis.call('TIME')
  local px = math.min(tonumber(ARGV[3]), tonumber(ARGV[4]) - (t[1] * 1000 + math.floor(t[2] / 1000)))
  if px > 0 then redis.call('SET', KEYS[1], ARGV[2], 'PX', px) end
end
if redis.pcall('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return 1`)

// renew prolongs the lock if it is still ours.
//
// KEYS lock; ARGV nonce px. Returns 1 when prolonged.
var renew = goredis.NewScript(`
if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0`)

// revoke buries one acquisition: the sealed bytes go, the stamp stays until the
// acquisition would have ended. Where pacing is asked for, the pause's key lives
// keep longer than the pause, and its value is the pause, so that the next one
// can double it. Both together say how long ago the revocation was that the pause
// follows. What is older by more than margin does not wait, and does not count
// either: see backend.Pace. Its age is what it was when it was stored, and the
// time since; where its header does not say it is as good as new.
//
// KEYS value pause; ARGV id channel message minPause (0: not paced) maxPause keep margin.
// Returns a verdict.
var revoke = goredis.NewScript(`
local n = redis.pcall('STRLEN', KEYS[1])
if type(n) ~= 'number' or n < 54 or n > 131072 then return 'absent' end
local held = redis.call('GET', KEYS[1])
if string.sub(held, 1, 4) ~= 'oo1 ' then return 'absent' end
local header = string.match(held, '^[^\n]*\n')
if not header then return 'absent' end
if string.sub(held, 22, 53) ~= ARGV[1] then return 'replaced' end
if string.len(held) == string.len(header) then return 'already' end
local left = redis.call('PTTL', KEYS[1])
local least, keep = tonumber(ARGV[4]), tonumber(ARGV[6])
local rest, last = redis.call('PTTL', KEYS[2]), tonumber(redis.pcall('GET', KEYS[2]) or 0) or 0
local px, age = string.match(header, ' px=(%d+)'), string.match(header, ' age=(%d+)')
local older = last > 0 and px and age and age + px - left > last + keep - rest + ARGV[7]
if least > 0 and not older then
  if rest > keep then return 'paced' end
  local pause = math.min(math.max(2 * last, least), tonumber(ARGV[5]))
  redis.call('SET', KEYS[2], pause, 'PX', pause + keep)
end
if left > 0 then redis.call('SET', KEYS[1], header, 'PX', left) else redis.call('DEL', KEYS[1]) end
redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return 'buried'`)
