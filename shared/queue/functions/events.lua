-- Events of a task that scripts write themselves, as events.py describes them.
--
-- Uses shared/connections/clock: whole

-- `longest` bounds the stream (entries, about).
local function record_state(id, state, epoch, longest)
  redis.call('XADD', 'agent:events:' .. id, 'MAXLEN', '~', longest, '*', 'type', 'state', 'data',
    '{"state":"' .. state .. '","attempt":' .. epoch .. '}')
end

-- The same of a task that waits for `thing` until `until_ms` at least.
local function record_wait(id, epoch, longest, thing, until_ms)
  redis.call('XADD', 'agent:events:' .. id, 'MAXLEN', '~', longest, '*', 'type', 'state', 'data',
    '{"state":"pending","attempt":' .. epoch .. ',"waits_for":' .. cjson.encode(thing) .. ',"until_ms":'
      .. whole(until_ms) .. '}')
end

-- Most readers that an end wakes, and how long (ms) it lies in the list of one.
local WOKEN, LISTED_MS = 1000, 60000

-- The last event; the stream is forgotten after `keep_ms`. Wakes those that wait for the end,
-- await_ends.lua, if the caller may: a producer's Redis user of an earlier version may not.
local function record_end(id, events_key, state, keep_ms)
  redis.call('XADD', events_key, '*', 'type', 'end', 'data', '{"state":"' .. state .. '"}')
  redis.call('PEXPIRE', events_key, keep_ms)
  for _, reader in ipairs(redis.pcall('SPOP', 'agent:awaited:' .. id, WOKEN)) do
    local ended_key = 'agent:ended:' .. reader
    redis.pcall('RPUSH', ended_key, id)
    redis.pcall('PEXPIRE', ended_key, LISTED_MS)
  end
end
