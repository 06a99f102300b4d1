-- Circuit breakers' shared state; each call is one atomic step. Times are Redis's own, in milliseconds.
-- KEYS[1]: a hash, by place one JSON value: since when and for how long it is open, failures, successes of probes in a
-- row, and since when, for how long and by whom it is probed. A clock that has gone back ends a wait.
-- ARGV[1]: what to do, see the table at the end; the rest is its arguments.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function left(since, lasting)
  if not since or now < since then return 0 end
  return math.max(0, since + lasting - now)
end

local function load(place)
  local text = redis.call('HGET', KEYS[1], place)
  return text and cjson.decode(text) or {successes = 0, failures = 0}
end

local function save(place, state) redis.call('HSET', KEYS[1], place, cjson.encode(state)) end

local function end_probe(state, token)
  if state.token ~= token then return end
  state.token, state.probed_at, state.probe_ms = nil, nil, nil
end

-- {granted, ms to wait, successes}; while another probes, ask again after half a second.
local function claim(place, token, lease_ms)
  local state = load(place)
  local open, probed = left(state.opened_at, state.open_ms), left(state.probed_at, state.probe_ms)
  if open > 0 then return {0, open, 0} end
  if probed > 0 then return {0, math.min(probed, 500), state.successes} end
  state.token, state.probed_at, state.probe_ms = token, now, tonumber(lease_ms)
  save(place, state)
  return {1, 0, state.successes}
end

local function release(place, token)
  local state = load(place)
  if state.token == token then
    end_probe(state, token)
    save(place, state)
  end
  return {}
end

local function publish(place, token, channel, after, open_ms, failures, successes, message)
  local state = load(place)
  if after == 'closed' then
    redis.call('HDEL', KEYS[1], place)
  elseif after ~= 'resting' then
    end_probe(state, token)
    if after == 'open' then
      state.open_ms = math.max(tonumber(open_ms), left(state.opened_at, state.open_ms or 0))
      state.opened_at, state.failures, state.successes = now, tonumber(failures), 0
    else
      state.successes = math.max(state.successes, tonumber(successes))
    end
    save(place, state)
  end
  redis.call('PUBLISH', channel, message)
  return {}
end

-- place, ms left, failures, place, ...: of all that are open.
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
