-- Checks every limit of one request and takes from all of them, or from none. Atomic, as every script is in Redis.
--
-- KEYS  1 key's window, 2 address's window, 3 day, 4 month, 5 leases of the organisation, 6 those of the key
-- ARGV  1 now in ms ('' for this server's clock), 2 lease in ms, 3 lease, 4 tokens, 5 pico-dollars, 6 prefix of periods,
--       7-14 what the limits allow, in the order of domain.quotas.Limit; '' is no limit
--       15, 16 buckets of a minute and ms of each; 17, 18 the same for the address's second
-- Returns {1, totals}, or {0, then for each limit: -1 if it has room, else ms to wait; for the limits of days, months and
-- requests at once 0 if running requests may give it back, 1 if only the period's end will}.
-- The totals are those of all processes with this request: requests in the key's window; requests and tokens of the day,
-- tokens and pico-dollars of the month, as strings. A process that must count alone later goes on from them.
--
-- Amounts are compared as decimal strings and added by HINCRBY, which is exact to 2^63: Lua's numbers are exact to 2^53
-- only, and 2^53 pico-dollars are $9,007.

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Of a decimal string. "-0" is no integer to HINCRBY.
local function negative(amount)
  if amount == '0' then return '0' end
  return '-' .. amount
end

-- amount > limit, both decimal strings without leading zeros: the longer number is the larger one.
local function over(amount, limit)
  if limit == '' or amount:sub(1, 1) == '-' then return false end
  if #amount ~= #limit then return #amount > #limit end
  return amount > limit
end

local function add(period, requests, tokens, picousd)
  redis.call('HINCRBY', period, 'requests', requests)
  redis.call('HINCRBY', period, 'tokens', tokens)
  redis.call('HINCRBY', period, 'picousd', picousd)
  redis.call('HINCRBY', period, 'reserved_requests', requests)
  redis.call('HINCRBY', period, 'reserved_tokens', tokens)
  redis.call('HINCRBY', period, 'reserved_picousd', picousd)
end

-- Gives back the leases that were not ended in time, at most 1000 at once so that no call blocks Redis for long.
-- lease: id:day:month:tokens:picousd. A period that is gone is not made anew.
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, 1000)) do
  local day, month, tokens, picousd = lease:match('^[^:]+:(%d+):(%d+):(%d+):(%d+)$')
  redis.call('ZREM', KEYS[5], lease)
  for _, period in ipairs({ARGV[6] .. 'day:' .. day, ARGV[6] .. 'month:' .. month}) do
    if redis.call('EXISTS', period) == 1 then
      add(period, -1, negative(tokens), negative(picousd))
    end
  end
end

-- A sliding window, as SlidingWindow in counters.py: returns the bucket to count in, how many requests count, and the
-- oldest bucket of them.
local function window(key, buckets, bucket_ms)
  local counts = redis.call('HGETALL', key)
  local bucket = math.floor(now / bucket_ms)
  local newest = -1
  local total = 0
  local oldest = nil
  for i = 1, #counts, 2 do newest = math.max(newest, tonumber(counts[i])) end
  if newest - bucket > buckets then
    redis.call('DEL', key)
    return bucket, 0, nil
  end
  bucket = math.max(bucket, newest)
  for i = 1, #counts, 2 do
    local at = tonumber(counts[i])
    local count = tonumber(counts[i + 1])
    if at < bucket - buckets then
      redis.call('HDEL', key, counts[i])
    elseif count > 0 then
      total = total + count
      oldest = math.min(oldest or at, at)
    end
  end
  return bucket, total, oldest
end

local reply = {0, -1, -1, -1, -1, -1, -1, -1, -1}
local has_room = true
local function refuse(limit, wait)
  reply[limit + 1] = wait
  has_room = false
end

-- The buckets of the key's and the address's window in which this request counts.
local taken_in = {0, 0}
local in_key_window = 1
for number = 1, 2 do
  local allowed = ARGV[6 + number]
  local buckets = tonumber(ARGV[13 + 2 * number])
  local bucket_ms = tonumber(ARGV[14 + 2 * number])
  if allowed ~= '' then
    local bucket, total, oldest = window(KEYS[number], buckets, bucket_ms)
    taken_in[number] = bucket
    if number == 1 then in_key_window = total + 1 end
    if total >= tonumber(allowed) then
      refuse(number, (oldest or bucket) * bucket_ms + (buckets + 1) * bucket_ms - now)
    end
  end
end

-- Added first and compared then, because only HINCRBY adds exactly. What does not fit is taken out again below.
add(KEYS[3], 1, ARGV[4], ARGV[5])
add(KEYS[4], 1, ARGV[4], ARGV[5])

local function check(limit, period, field)
  local allowed = ARGV[6 + limit]
  if allowed ~= '' and over(redis.call('HGET', period, field), allowed) then
    -- Only the kind of wait depends on these, so that Lua's rounding above 2^53 does no harm.
    local reserved_by_others = tonumber(redis.call('HGET', period, 'reserved_' .. field))
    local requested = ({requests = 1, tokens = tonumber(ARGV[4]), picousd = tonumber(ARGV[5])})[field]
    local settled = tonumber(redis.call('HGET', period, field)) - reserved_by_others
    refuse(limit, settled + requested <= tonumber(allowed) and 0 or 1)
  end
end
check(3, KEYS[3], 'requests')
check(4, KEYS[3], 'tokens')
check(5, KEYS[4], 'tokens')
check(6, KEYS[4], 'picousd')

-- A request is under way as long as its lease is alive. Leases that have expired count no more, removed or not.
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now)
for limit, leases in pairs({[7] = KEYS[6], [8] = KEYS[5]}) do
  local allowed = ARGV[6 + limit]
  if allowed ~= '' and redis.call('ZCOUNT', leases, '(' .. now, '+inf') >= tonumber(allowed) then refuse(limit, 0) end
end

-- A day's counts stay for a week after it, a month's for two months: as in counters.Periods.forget_before.
for number, seconds in pairs({[3] = 8 * 86400, [4] = 93 * 86400}) do
  if redis.call('TTL', KEYS[number]) < 0 then redis.call('EXPIRE', KEYS[number], seconds) end
end

if not has_room then
  add(KEYS[3], -1, negative(ARGV[4]), negative(ARGV[5]))
  add(KEYS[4], -1, negative(ARGV[4]), negative(ARGV[5]))
  return reply
end
-- Redis expires keys by its own clock. A caller's clock may stand still meanwhile, so its windows and leases stay.
local function expire(key, ms)
  if ARGV[1] == '' then redis.call('PEXPIRE', key, ms) end
end
for number = 1, 2 do
  if ARGV[6 + number] ~= '' then
    redis.call('HINCRBY', KEYS[number], taken_in[number], 1)
    expire(KEYS[number], 2 * (tonumber(ARGV[13 + 2 * number]) + 1) * tonumber(ARGV[14 + 2 * number]))
  end
end
for number = 5, 6 do
  redis.call('ZADD', KEYS[number], now + tonumber(ARGV[2]), ARGV[3])
  expire(KEYS[number], 2 * tonumber(ARGV[2]))
end
local day = redis.call('HMGET', KEYS[3], 'requests', 'tokens')
local month = redis.call('HMGET', KEYS[4], 'tokens', 'picousd')
return {1, {in_key_window, day[1], day[2], month[1], month[2]}}
