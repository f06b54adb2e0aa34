-- The places of a tenant's model calls: at most so many calls of one tenant are in flight in the whole fleet. See
-- worker/guards/tenant_calls.py for the key.
--
-- Uses shared/connections/clock: clock, whole

-- Places whose call was never settled, that are removed each time.
local ENDED = 100

-- Take a place, given its key, and {id of the call, most places, life of the place (ms), now (ms) in tests, else empty}.
-- The same id has the same place. Returns whether there is one, and how many are taken.
local function take_place(keys, arguments)
  local key, id, most, life_ms = keys[1], arguments[1], tonumber(arguments[2]), tonumber(arguments[3])
  local now_ms = clock(arguments[4])
  for _, ended in ipairs(redis.call('ZRANGE', key, '-inf', whole(now_ms), 'BYSCORE', 'LIMIT', 0, ENDED)) do
    redis.call('ZREM', key, ended)
  end
  local in_flight = redis.call('ZCARD', key)
  if in_flight >= most and not redis.call('ZSCORE', key, id) then
    return false, in_flight
  end
  redis.call('ZADD', key, now_ms + life_ms, id)
  if redis.call('PTTL', key) < life_ms then
    redis.call('PEXPIRE', key, life_ms)
  end
  return true, in_flight
end

-- Give a place back, given its key and {id of the call, ...}.
local function leave_place(keys, arguments)
  redis.call('ZREM', keys[1], arguments[1])
end
