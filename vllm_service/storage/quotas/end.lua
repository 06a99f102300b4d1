-- Ends a reservation: books what was used, or gives tokens and dollars back. It is atomic, and safe to send again.
--
-- KEYS  1 key's window, 2 address's window, 3 day, 4 month, 5 leases of the organisation, 6 those of the key
-- ARGV  1 lease, 2 'settle', 'settle again' or 'release', 3 tokens and 4 pico-dollars reserved, negative
--       5 tokens and 6 pico-dollars used
-- Returns 1 if the lease was alive, else 0.
--
-- 'settle' books a lease that has expired all the same: the tokens were used. 'settle again' follows a connection that
-- broke, when the first 'settle' may have arrived. There a missing lease means that it did, and nothing is booked.
--
-- The windows are left as they are: whatever becomes of a request, it was made.

local function add(period, requests, tokens, picousd)
  redis.call('HINCRBY', period, 'requests', requests)
  redis.call('HINCRBY', period, 'tokens', tokens)
  redis.call('HINCRBY', period, 'picousd', picousd)
end

-- ZREM is the test of life: of any number of ends of one lease, one removes it.
local alive = redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
for number = 3, 4 do
  local period = KEYS[number]
  if alive == 1 then
    add(period, -1, ARGV[3], ARGV[4])
    redis.call('HINCRBY', period, 'reserved_requests', -1)
    redis.call('HINCRBY', period, 'reserved_tokens', ARGV[3])
    redis.call('HINCRBY', period, 'reserved_picousd', ARGV[4])
  end
  if ARGV[2] == 'settle' or (ARGV[2] == 'settle again' and alive == 1) then
    add(period, 1, ARGV[5], ARGV[6])
  end
end
return alive
