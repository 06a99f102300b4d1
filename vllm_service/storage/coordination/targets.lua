-- The worker targets of one endpoint. Each call is one atomic step. Times are in milliseconds, by Redis's clock.
-- KEYS[1]: a hash by replica: its target, since when and for how long it counts. A clock that has gone back ends it.
-- ARGV[1]: the replica; ARGV[2]: its target, or -1 when it stops; ARGV[3]: for how long the target counts.
-- Returns the highest target of all replicas; -1 if there is none.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lasting = tonumber(ARGV[3])

if tonumber(ARGV[2]) < 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], cjson.encode({tonumber(ARGV[2]), now, lasting}))
  redis.call('PEXPIRE', KEYS[1], lasting)
end

local highest = -1
local replicas = redis.call('HGETALL', KEYS[1])
for i = 1, #replicas, 2 do
  local workers, since, counts = unpack(cjson.decode(replicas[i + 1]))
  if now < since or now >= since + counts then
    redis.call('HDEL', KEYS[1], replicas[i])
  elseif workers > highest then
    highest = workers
  end
end
return highest
