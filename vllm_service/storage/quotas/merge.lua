-- Adds what one process has counted alone to a day or month. It is safe to send again: each merge has a number.
--
-- KEYS  1 day or month, 2 the number of this merge
-- ARGV  1 requests, 2 tokens, 3 pico-dollars, 4 seconds that the period stays, 5 seconds that the number stays
-- Returns 1 if it was added, 0 if it had been added before.

if not redis.call('SET', KEYS[2], 1, 'NX', 'EX', ARGV[5]) then return 0 end
redis.call('HINCRBY', KEYS[1], 'requests', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'tokens', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'picousd', ARGV[3])
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return 1
