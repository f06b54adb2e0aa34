#!lua flags=no-writes
-- Read all breakers that were used in the last 24 hours, without changing them.
--
-- Uses shared/connections/clock: clock
-- Calls shared/breaker/read
--
-- KEYS[1] agent:breakers  zset  name -> when it may be forgotten (ms)
-- ARGV[1] window (ms), 0 for none
-- ARGV[2] breakers read at most, 0 for all
-- ARGV[3] now (ms) in tests, else empty
-- Returns {name, reply of read, name, reply of read, ...}
local index_key = KEYS[1]
local window_ms, most, now_ms = ARGV[1], tonumber(ARGV[2]), clock(ARGV[3])

local found = {}
for _, name in ipairs(redis.call('ZRANGE', index_key, 0, most - 1)) do
  local status = read({'agent:breaker:' .. name, 'agent:breaker_probes:' .. name}, {window_ms, now_ms})
  if status then
    found[#found + 1] = name
    found[#found + 1] = status
  end
end
return found
