-- The shared state of circuit breakers. Each call is one atomic step. Times are in milliseconds, by Redis's clock: those
-- of the replicas differ.
-- KEYS[1]: a hash with one JSON value for each breaker, that is a provider and a model, or these and an organisation:
-- since when and for how long it is open, its failures, the successes of probes in a row, and by the organisation that
-- sent them its probes: since when, for how long and with which token.
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

-- Returns {granted, ms to wait, successes}. Each sender has one probe, and all together `most`. While others probe the
-- wait is half a second at most.
local function claim(field, token, sender, lease_ms, most)
  local state = load(field)
  local open = left(state.opened_at, state.open_ms)
  if open > 0 then return {0, open, 0} end
  local out, soonest, is_out = 0, 500, false
  local probes = {}
  for other, probe in pairs(state.probes or {}) do
    local probed = left(probe.at, probe.ms)
    if probed > 0 then
      probes[other] = probe
      out = out + 1
      soonest = math.min(soonest, probed)
      is_out = is_out or other == sender
    end
  end
  if is_out or out >= tonumber(most) then return {0, soonest, state.successes} end
  probes[sender] = {token = token, at = now, ms = tonumber(lease_ms)}
  state.probes = probes
  save(field, state)
  return {1, 0, state.successes}
end

-- Only the token that claimed a probe ends it: the claim may have expired, and another replica may probe by now. What
-- was closed meanwhile is in the hash no more.
local function release(field, token, sender)
  local state = load(field)
  local probe = (state.probes or {})[sender]
  if probe and probe.token == token then
    state.probes[sender] = nil
    save(field, state)
  end
  return {}
end

local function publish(field, channel, after, open_ms, failures, successes, message)
  local state = load(field)
  -- 'resting' is not stored: the wait after a Retry-After shows no fault, and passes by itself.
  if after == 'closed' then
    redis.call('HDEL', KEYS[1], field)
  elseif after ~= 'resting' then
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
