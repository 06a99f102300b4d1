-- The shared state of circuit breakers. Each call is one atomic step. Times are in milliseconds, by Redis's clock: those
-- of the replicas differ.
-- KEYS[1]: a hash with one JSON value for each offer, a provider and a model: since when and for how long its breaker is
-- open, its failures, the successes of probes in a row, and since when, for how long and with which token it is probed.
-- ARGV[1]: the step, see the table at the end. The other arguments are the step's.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- What is left of a wait. A clock that has gone back ends it: otherwise it might last for ever.
local function left(since, lasting)
  if not since or now < since then return 0 end
  return math.max(0, since + lasting - now)
end

local function load(field)
  local text = redis.call('HGET', KEYS[1], field)
  return text and cjson.decode(text) or {successes = 0, failures = 0}
end

local function save(field, state) redis.call('HSET', KEYS[1], field, cjson.encode(state)) end

-- Only the token that claimed a probe ends it: the claim may have expired, and another replica may probe by now.
local function end_probe(state, token)
  if state.token ~= token then return end
  state.token, state.probed_at, state.probe_ms = nil, nil, nil
end

-- Returns {granted, ms to wait, successes}. While another replica probes the wait is half a second at most.
local function claim(field, token, lease_ms)
  local state = load(field)
  local open = left(state.opened_at, state.open_ms)
  local probed = left(state.probed_at, state.probe_ms)
  if open > 0 then return {0, open, 0} end
  if probed > 0 then return {0, math.min(probed, 500), state.successes} end
  state.token = token
  state.probed_at = now
  state.probe_ms = tonumber(lease_ms)
  save(field, state)
  return {1, 0, state.successes}
end

local function release(field, token)
  local state = load(field)
  if state.token == token then
    end_probe(state, token)
    save(field, state)
  end
  return {}
end

local function publish(field, token, channel, after, open_ms, failures, successes, message)
  local state = load(field)
  -- 'resting' is not stored: the wait after a Retry-After shows no fault, and passes by itself.
  if after == 'closed' then
    redis.call('HDEL', KEYS[1], field)
  elseif after ~= 'resting' then
    end_probe(state, token)
    if after == 'open' then
      -- The longest wait wins: a replica that opens later must not shorten what another one found.
      state.open_ms = math.max(tonumber(open_ms), left(state.opened_at, state.open_ms or 0))
      state.opened_at = now
      state.failures = tonumber(failures)
      state.successes = 0
    else
      state.successes = math.max(state.successes, tonumber(successes))
    end
    save(field, state)
  end
  redis.call('PUBLISH', channel, message)
  return {}
end

-- Returns field, ms left, failures of every open breaker, in one flat list.
local function open_now()
  local found = {}
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local state = cjson.decode(all[i + 1])
    local open = left(state.opened_at, state.open_ms)
    if open > 0 then
      table.insert(found, all[i])
      table.insert(found, open)
      table.insert(found, state.failures)
    end
  end
  return found
end

local steps = {claim = claim, release = release, publish = publish, open_now = open_now}
return steps[ARGV[1]](unpack(ARGV, 2))
