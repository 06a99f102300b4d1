-- Stores one answer and makes room for it. It is atomic.
--
-- KEYS  1 the answer's key, 2 sorted set of keys by when they expire, 3 hash of sizes by key, 4 sum of the sizes
-- ARGV  1 answer, 2 its size, 3 now in ms, 4 time to live in ms, 5 most bytes, 6 most entries

local now, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])

local function forget(key)
  local size = redis.call('HGET', KEYS[3], key)
  if size then
    redis.call('DEL', key)
    redis.call('ZREM', KEYS[2], key)
    redis.call('HDEL', KEYS[3], key)
    redis.call('DECRBY', KEYS[4], size)
  end
end

forget(KEYS[1])
-- Redis has dropped these answers by itself; their sizes still count. At most 1000, so that no call blocks for long.
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)) do forget(key) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
redis.call('ZADD', KEYS[2], now + ttl, KEYS[1])
redis.call('HSET', KEYS[3], KEYS[1], ARGV[2])
redis.call('INCRBY', KEYS[4], ARGV[2])
while tonumber(redis.call('GET', KEYS[4])) > tonumber(ARGV[5])
    or redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[6]) do
  forget(redis.call('ZRANGE', KEYS[2], 0, 0)[1])
end
return redis.status_reply('OK')
