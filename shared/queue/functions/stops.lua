-- What stops a task that has not ended: the field `cancel` of its hash, which the admission of every model call and every
-- renewal read, and a message to its worker, which is only faster.
--
-- cancel: 1, or `rollback`: what it has written to its thread is removed, too. Only a worker can do that, in its last
-- step as the owner, so that the thread's next task begins on what was there before. `cancel_reason` says who wanted it.
--
-- Uses shared/queue/functions/records/thread_rows: LATE

-- Tasks of a thread that one script stops at most, and of those whose time to start has not come.
local MOST_STOPPED, MOST_LATE = 1000, 100

-- Note that a task is to stop. Nothing undoes a rollback. Returns whether that is news.
local function stop(id, owner, is_rollback, why)
  local task_key = 'agent:task:' .. id
  local known = redis.call('HGET', task_key, 'cancel')
  if known == 'rollback' or (known and not is_rollback) then
    return false
  end
  redis.call('HSET', task_key, 'cancel', is_rollback and 'rollback' or 1)
  if why ~= '' then
    redis.call('HSET', task_key, 'cancel_reason', why)
  end
  if owner then
    redis.call('PUBLISH', 'agent:commands:' .. owner, '{"command":"stop-job","job_id":"' .. id .. '"}')
  end
  return true
end

-- Stop the open tasks of a thread in favour of a new one. Returns the ids of those that did not know it yet: the caller
-- ends the ones that no worker runs. If it dies, a worker does when their turn comes. And those of them that hold the
-- thread and wait for their time, which need not.
local function stop_thread(by, thread, is_rollback, why)
  local found, delayed, seen = {}, {}, {[by] = true}
  for _, ids in ipairs({redis.call('LRANGE', 'agent:thread:' .. thread, 0, MOST_STOPPED - 1),
    redis.pcall('ZRANGE', LATE .. thread, 0, MOST_LATE - 1)}) do
    for _, id in ipairs(ids) do
      local state, owner, started, place = unpack(seen[id] and {} or redis.call('HMGET', 'agent:task:' .. id, 'state',
        'owner', 'started', 'place'))
      seen[id] = true
      if (state == 'pending' or state == 'running') and stop(id, owner, is_rollback, why) then
        found[#found + 1] = id
        if started and place == 'delayed' then
          delayed[#delayed + 1] = id
        end
      end
    end
  end
  return found, delayed
end
