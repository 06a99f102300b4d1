-- How many workers each replica wants of an endpoint; each call is one atomic step. Times are Redis's own, milliseconds.
-- KEYS[1]: a hash, by replica the number and since when and for how long it counts; a clock that has gone back ends it.
-- ARGV[1]: the replica; ARGV[2]: its number, or -1 when it stops; ARGV[3]: for how long it counts.
-- Answers the highest number that any replica wants now; -1: there is none.

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
for place = 1, #replicas, 2 do
  local workers, since, counts = unpack(cjson.decode(replicas[place + 1]))
  if now < since or now >= since + counts then
    redis.call('HDEL', KEYS[1], replicas[place])
  elseif workers > highest then
    highest = workers
  end
end
return highest
