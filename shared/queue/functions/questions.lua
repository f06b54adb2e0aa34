-- Questions: while a thread shows one (its last task ended as interrupted), the tasks that were accepted before it was
-- visible wait for the answer, and their deadlines stand still.
--
-- Uses shared/connections/clock: natural, whole
--
-- agent:question:<thread>  hash  since: when the question was asked (ms), while tasks wait for the answer; most: how long
--                                deadlines stand still for it (ms); still: how long they did for earlier ones (ms);
--                                task: the task that asked last, until the thread goes on
-- A task that is parked notes `still` of its thread as `still_before` in its own hash.
local QUESTION = 'agent:question:'

local function is_asking(thread)
  return redis.call('HEXISTS', QUESTION .. thread, 'since') == 1
end

-- How long (ms) deadlines of the thread's tasks have stood still so far.
local function still_ms(thread, now_ms)
  local since, most, still = unpack(redis.call('HMGET', QUESTION .. thread, 'since', 'most', 'still'))
  local now_still = since and math.min(now_ms - natural(since, now_ms), natural(most, 0)) or 0
  return natural(still, 0) + math.max(now_still, 0)
end

-- Let deadlines go on.
local function end_question(thread, now_ms)
  if is_asking(thread) then
    redis.call('HSET', QUESTION .. thread, 'still', whole(still_ms(thread, now_ms)))
    redis.call('HDEL', QUESTION .. thread, 'since', 'most')
  end
end

-- Note what the end of a task means for its thread: `asks` it asks, `keeps` it leaves the question of an earlier one as
-- it is, or neither.
local function settle_question(id, thread, what, most_ms, keep_ms, now_ms)
  local key = QUESTION .. thread
  if what == 'asks' then
    end_question(thread, now_ms)
    redis.call('HSET', key, 'since', whole(now_ms), 'most', most_ms, 'task', id)
    redis.call('PEXPIRE', key, whole(keep_ms))
  elseif what == '' and redis.call('EXISTS', key) == 1 then
    end_question(thread, now_ms)
    if redis.call('LLEN', 'agent:thread:' .. thread) <= 1 then
      redis.call('DEL', key)
    end
  end
end

-- Add to the deadline of a task that was parked what its thread has stood still since. Returns the deadline.
local function stand_still(id, now_ms)
  local task_key = 'agent:task:' .. id
  local deadline, before, thread, stood = unpack(redis.call('HMGET', task_key, 'deadline', 'still_before', 'thread', 'stood_still'))
  deadline = natural(deadline, now_ms)
  if not (before and thread) then
    return deadline
  end
  local still = still_ms(thread, now_ms)
  local more = still - natural(before, 0)
  if more > 0 then
    deadline = deadline + more
    redis.call('HSET', task_key, 'deadline', whole(deadline), 'still_before', whole(still), 'stood_still',
      whole(natural(stood, 0) + more))
    redis.call('ZADD', 'agent:open', 'XX', whole(deadline), id)
  end
  return deadline
end
