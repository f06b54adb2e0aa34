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

-- The last event; the stream is forgotten after `keep_ms`.
local function record_end(events_key, state, keep_ms)
  redis.call('XADD', events_key, '*', 'type', 'end', 'data', '{"state":"' .. state .. '"}')
  redis.call('PEXPIRE', events_key, keep_ms)
end
