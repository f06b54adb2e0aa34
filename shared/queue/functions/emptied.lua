-- Waiting tasks as RQ's tools see them, and what these tools empty, delete or cancel.
--
-- A queue's list holds one id per tenant, so that RQ's `Queue.empty` takes only these off, and deletes their jobs. What
-- else waits is in RQ's registry of deferred jobs. While there is any, the ids on the list are registered too, before the
-- others: `Job.delete` takes a job out of the registry, and `Queue.empty` does not. A registered id of a pending task on
-- an empty list whose job is gone is the sign that the queue was emptied, and that what waited is to be cancelled.
--
-- Uses shared/connections/clock: clock, natural, whole
--
-- rq:deferred:<queue>     zset    id -> LISTED or UNLISTED, of the tasks that wait for a turn, their thread or a thing
-- agent:emptied:<queue>   string  when it was noticed that the queue was emptied (ms); a day
-- A Redis user of an earlier version may write neither: its tasks are not shown, and wait all the same.
local DEFERRED, EMPTIED = 'rq:deferred:', 'agent:emptied:'
-- Times (s) far in the future: RQ 2 takes a deferred job whose time is over for failed.
local LISTED, UNLISTED = 4102444800, 4102444801
local EMPTIED_MS = 86400000
-- Ids of a list that are registered when others begin to wait, and signs that are looked at.
local SIGNS = 100

-- What this script knows of jobs: status, false for a job that is gone, a table for a key of another type.
local statuses = {}
-- Queue -> when it was emptied last (ms), or false.
local emptied = {}

local function status_of(id)
  if statuses[id] == nil then
    statuses[id] = redis.pcall('HGET', 'rq:job:' .. id, 'status')
  end
  return statuses[id]
end

-- Set a job's status, unless a tool has deleted or cancelled it, which the sweeper ends. Returns whether it has the status.
local function set_status(id, status)
  local before = status_of(id)
  if type(before) ~= 'string' or before == 'canceled' then
    return false
  end
  if before ~= status and type(redis.pcall('HSET', 'rq:job:' .. id, 'status', status)) ~= 'number' then
    return false
  end
  statuses[id] = status
  return true
end

-- Whether a tool of RQ has deleted or cancelled the job of a task that waits.
local function is_removed(id)
  local status = status_of(id)
  return status == 'canceled' or (not status and redis.call('EXISTS', 'rq:job:' .. id) == 0)
end

-- Whether a task waited when its queue was emptied. One that has begun goes on.
local function was_emptied(queue, created, started)
  if started then
    return false
  end
  if emptied[queue] == nil then
    local at = redis.pcall('GET', EMPTIED .. queue)
    emptied[queue] = type(at) == 'string' and natural(at, false)
  end
  return emptied[queue] and natural(created, 0) <= emptied[queue]
end

-- Note that what waited until so many ms before now is to be cancelled if there is a sign. Where ids have come to the list
-- since, by stock RQ, it is not known until when: signs are forgotten.
local function note_emptied(queue, before_ms)
  local registry_key, found = DEFERRED .. queue, false
  for _, id in ipairs(redis.pcall('ZRANGE', registry_key, LISTED, LISTED, 'BYSCORE', 'LIMIT', 0, SIGNS)) do
    if redis.pcall('EXISTS', 'rq:job:' .. id) == 0 then
      local state, place = unpack(redis.pcall('HMGET', 'agent:task:' .. id, 'state', 'place'))
      found = found or (place == 'queue' and (state == 'pending' or state == 'cancelled'))
      redis.pcall('ZREM', registry_key, id)
    end
  end
  if found and redis.call('EXISTS', 'rq:queue:' .. queue) == 0 then
    emptied[queue] = clock('') - before_ms
    redis.pcall('SET', EMPTIED .. queue, whole(emptied[queue]), 'PX', EMPTIED_MS)
  end
end

-- Whether tasks wait in the queue. Looks at one sign: all ids of a list are taken off it together.
local function tasks_wait(queue, before_ms)
  local first, score = unpack(redis.pcall('ZRANGE', DEFERRED .. queue, 0, 0, 'WITHSCORES'))
  if first and tonumber(score) == LISTED and redis.pcall('EXISTS', 'rq:job:' .. first) == 0 then
    note_emptied(queue, before_ms)
  end
  return first ~= nil
end

-- Show a task that is put on the list, without having waited for its turn.
local function show_listed(id, queue, others_wait)
  if set_status(id, others_wait and 'deferred' or 'queued') and others_wait then
    redis.pcall('ZADD', DEFERRED .. queue, LISTED, id)
  end
end

-- Show a task that waits. With the first one, those on the list are registered.
local function show_waiting(id, queue, others_wait)
  if not set_status(id, 'deferred') then
    return
  end
  redis.pcall('ZADD', DEFERRED .. queue, UNLISTED, id)
  for _, listed in ipairs(others_wait and {} or redis.call('LRANGE', 'rq:queue:' .. queue, 0, SIGNS - 1)) do
    local place, home = unpack(redis.pcall('HMGET', 'agent:task:' .. listed, 'place', 'queue'))
    if place == 'queue' and home == queue then
      show_listed(listed, queue, true)
    end
  end
end
