-- Stores one answer and makes room for it. Atomic.
--
-- KEYS  1 where the answer goes, 2 answers by when they expire, 3 their sizes, 4 bytes held
-- ARGV  1 answer, 2 its size, 3 now in ms, 4 time to live in ms, 5 most bytes, 6 most entries

local now, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])

local function forget(place)
  local size = redis.call('HGET', KEYS[3], place)
  if size then
    redis.call('DEL', place)
    redis.call('ZREM', KEYS[2], place)
    redis.call('HDEL', KEYS[3], place)
    redis.call('DECRBY', KEYS[4], size)
  end
end

forget(KEYS[1])
for _, place in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)) do forget(place) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
redis.call('ZADD', KEYS[2], now + ttl, KEYS[1])
redis.call('HSET', KEYS[3], KEYS[1], ARGV[2])
redis.call('INCRBY', KEYS[4], ARGV[2])
while tonumber(redis.call('GET', KEYS[4])) > tonumber(ARGV[5])
    or redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[6]) do
  forget(redis.call('ZRANGE', KEYS[2], 0, 0)[1])
end
return redis.status_reply('OK')
