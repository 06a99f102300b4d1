"""The steps of shared circuit breakers, each one script and so atomic. Times are Redis's own, in milliseconds.

A place's state is one JSON value in the hash: since when and for how long it is open, failures, successes of probes in
a row, and since when, for how long and by whom it is probed. A clock that has gone back ends a wait.
"""

from __future__ import annotations

_COMMON = """
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
  if state.token == token then state.token, state.probed_at, state.probe_ms = nil, nil, nil end
end
"""

# place, token, lease ms -> {granted, ms to wait, successes}; while another probes, ask again after half a second.
CLAIM = (
    _COMMON
    + """
local state = load(ARGV[1])
local open, probed = left(state.opened_at, state.open_ms), left(state.probed_at, state.probe_ms)
if open > 0 then return {0, open, 0} end
if probed > 0 then return {0, math.min(probed, 500), state.successes} end
state.token, state.probed_at, state.probe_ms = ARGV[2], now, tonumber(ARGV[3])
save(ARGV[1], state)
return {1, 0, state.successes}
"""
)

# place, token
RELEASE = (
    _COMMON
    + """
local state = load(ARGV[1])
if state.token == ARGV[2] then
  end_probe(state, ARGV[2])
  save(ARGV[1], state)
end
return 0
"""
)

# place, token, channel, state, open ms, failures, successes, message
PUBLISH = (
    _COMMON
    + """
local state = load(ARGV[1])
if ARGV[4] == 'closed' then
  redis.call('HDEL', KEYS[1], ARGV[1])
elseif ARGV[4] ~= 'resting' then
  end_probe(state, ARGV[2])
  if ARGV[4] == 'open' then
    state.open_ms = math.max(tonumber(ARGV[5]), left(state.opened_at, state.open_ms or 0))
    state.opened_at, state.failures, state.successes = now, tonumber(ARGV[6]), 0
  else
    state.successes = math.max(state.successes, tonumber(ARGV[7]))
  end
  save(ARGV[1], state)
end
redis.call('PUBLISH', ARGV[3], ARGV[8])
return 0
"""
)

# -> place, ms left, failures, place, ...: of all that are open
LEFT = (
    _COMMON
    + """
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
"""
)
