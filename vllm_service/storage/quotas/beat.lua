-- Registers a process that shares these limits, and counts those that have registered lately, by Redis's clock.
--
-- KEYS  1 processes, by when they last registered
-- ARGV  1 process, 2 ms after which one that has not registered again counts no more
-- Returns the number of processes.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
