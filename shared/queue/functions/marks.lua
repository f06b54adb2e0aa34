-- Marks: from when on tasks that wait for a thing may go on, see waits.lua.
--
-- Uses shared/connections/clock: natural, whole
--
-- agent:waits         zset  thing -> from when on its set is marked (ms); until the set is empty
-- agent:wait_limits   hash  thing -> number of tasks that its mark lets go, any number of those that are missing
local WAITS, LIMITS = 'agent:waits', 'agent:wait_limits'
-- Largest number of tasks that a limited mark lets go.
local MOST_TASKS = 100

-- Mark a set from an instant on, for any number of tasks if `limit` is 0.
local function mark(thing, at_ms, limit)
  redis.call('ZADD', WAITS, whole(at_ms), thing)
  if limit > 0 then
    redis.call('HSET', LIMITS, thing, limit)
  else
    redis.call('HDEL', LIMITS, thing)
  end
end

-- Returns from when on a set is marked, nil if nothing waits for the thing, and for how many tasks, 0 for any number.
local function mark_of(thing)
  return tonumber(redis.call('ZSCORE', WAITS, thing)), natural(redis.call('HGET', LIMITS, thing), 0)
end
