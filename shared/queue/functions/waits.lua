-- Waiting: a task that cannot go on now lies in the set of the one thing that it waits for, and holds no slot.
--
-- What frees a thing marks its set (`wake`) and moves nothing. Claims and `reap` take a few tasks at a time out of marked
-- sets, through the turns of their users. A mark may be limited to a number of tasks, as a half-open breaker needs one
-- probe; it comes again after AGAIN, for twice as many unless one of them is refused: they may have ended otherwise, or
-- wait for their users' turns. `await` records a refusal in the very script that decided it, before the task is in the
-- set: what is freed in between marks the set all the same.
--
-- Uses shared/connections/clock: natural, whole
-- Uses shared/queue/functions/marks: LIMITS, MOST_TASKS, WAITS, mark, mark_of
-- Uses shared/queue/functions/turns: enqueue, enter_thread, lay, wake_thread
-- Uses shared/queue/functions/records/thread_rows: leave_late, list_late
-- Uses shared/queue/functions/emptied: DEFERRED, set_status, show_listed, show_waiting, tasks_wait
--
-- agent:wait:<thing>  zset  id -> when the task may go on at the earliest (ms); an hour after the last entry
-- agent:delayed       zset  id -> when it goes on without a mark (ms); all tasks that wait for a thing or for their time
local DELAYED, SET = 'agent:delayed', 'agent:wait:'
-- Waits of a task for the same thing (ms): the first one, which doubles, and the longest, which each one ends after.
local FIRST, FALLBACK, SPREAD = 1000, 60000, 0.25
local AGAIN, KEEP, SOON = 5000, 3600000, 3600000

-- Each later wait for the same thing is twice as long, and a little longer, so that tasks do not come back together.
local function backoff(id, times)
  local random = tonumber(redis.sha1hex(id .. ':' .. times):sub(1, 8), 16) / 0xffffffff
  return math.min(FIRST * 2 ^ math.min(times - 1, 16) * (1 + SPREAD * random), FALLBACK)
end

-- Put a task behind the others of its user. A job of stock RQ that was not read yet has none.
local function in_turn(id, queue, user)
  if user then
    enqueue(id, queue, user)
  else
    show_listed(id, queue, tasks_wait(queue, 0))
    lay('RPUSH', id, queue)
  end
end

-- Put a task that its worker gave back into the set of a thing; or, with a delay (ms), let it wait for its time. If the
-- thing was freed since it was refused, the task need not wait, unless it waits for it again. Returns until when it waits
-- at least (ms), or false.
local function enter(id, queue, user, thing, delay_ms, doubles, now_ms)
  local task_key = 'agent:task:' .. id
  local known, since, times = unpack(redis.call('HMGET', task_key, 'waits_for', 'waits_since', 'waits_in_row'))
  times = known == thing and natural(times, 0) + 1 or 1
  since = known == thing and natural(since, now_ms) or now_ms
  local least_ms = doubles and backoff(id, times) or 0
  local earliest, latest = now_ms + math.max(delay_ms, least_ms), now_ms + FALLBACK
  local until_ms, is_free = earliest, false
  if delay_ms > 0 then
    latest = earliest
  else
    local marked_at, limit = mark_of(thing)
    is_free = times == 1 and (not marked_at or (marked_at <= now_ms and limit == 0))
    until_ms = math.max(earliest, marked_at or 0)
  end
  redis.call('HSET', task_key, 'state', 'pending', 'waits_for', thing, 'waits_since', whole(since), 'waits_in_row', times,
    'waits_until', whole(until_ms))
  redis.call('HDEL', task_key, 'owner')
  if is_free then
    in_turn(id, queue, user)
    return false
  end
  redis.call('HSET', task_key, 'place', 'delayed')
  show_waiting(id, queue, tasks_wait(queue, 0))
  redis.call('ZADD', DELAYED, whole(latest), id)
  if delay_ms == 0 then
    redis.call('ZADD', SET .. thing, whole(earliest), id)
    redis.call('PEXPIRE', SET .. thing, KEEP)
    if not redis.call('ZSCORE', WAITS, thing) then
      mark(thing, earliest, 1)
    end
  end
  return until_ms
end

-- Take a task out of its set that goes on or has ended.
local function leave_wait(id, thing)
  redis.call('ZREM', DELAYED, id)
  if thing then
    redis.call('ZREM', SET .. thing, id)
  end
end

-- Let a task that is new wait for the time at which it was asked to start. It enters its thread then.
local function wait_to_start(id, thread, at_ms, now_ms)
  redis.call('HSET', 'agent:task:' .. id, 'place', 'delayed', 'waits_for', 'start', 'waits_until', whole(at_ms))
  if thread ~= '' then
    redis.call('HSET', 'agent:task:' .. id, 'enters', thread)
    list_late(id, thread, at_ms, now_ms)
  end
  redis.call('ZADD', DELAYED, whole(at_ms), id)
  set_status(id, 'scheduled')
end

-- Put a task into its thread whose time to start has come. Returns whether it can run now.
local function enter_late(id, queue, now_ms)
  local task_key = 'agent:task:' .. id
  local thread, answers = unpack(redis.call('HMGET', task_key, 'enters', 'answers'))
  if not thread then
    return true
  end
  redis.call('HDEL', task_key, 'enters')
  leave_late(id, thread)
  local is_next, drops = enter_thread(id, queue, thread, answers == '1', now_ms)
  if drops then
    wake_thread(id, thread)
  end
  return is_next
end

-- Put a task that waited behind the others of its user. Returns whether it did wait, and for `thing` if that is given.
local function go_on(id, now_ms, thing)
  local state, place, queue, user, waits_for =
    unpack(redis.call('HMGET', 'agent:task:' .. id, 'state', 'place', 'queue', 'user', 'waits_for'))
  if thing and (waits_for ~= thing or place ~= 'delayed') then
    redis.call('ZREM', SET .. thing, id)
    return false
  end
  leave_wait(id, waits_for)
  if state ~= 'pending' or place ~= 'delayed' or not queue then
    return false
  end
  redis.pcall('ZREM', DEFERRED .. queue, id)
  if not enter_late(id, queue, now_ms) then
    return true
  end
  in_turn(id, queue, user)
  return true
end

-- Let up to `most` tasks of one marked set go on, and mark the set for those that are left.
local function take_from(thing, most, now_ms, gone)
  local set_key = SET .. thing
  local _, limit = mark_of(thing)
  most = limit > 0 and math.min(most, limit) or most
  local went = 0
  for _, id in ipairs(redis.call('ZRANGE', set_key, '-inf', whole(now_ms), 'BYSCORE', 'LIMIT', 0, most)) do
    if go_on(id, now_ms, thing) then
      went = went + 1
      gone[#gone + 1] = id
    end
  end
  local first = redis.call('ZRANGE', set_key, 0, 0, 'WITHSCORES')[2]
  if not first then
    redis.call('ZREM', WAITS, thing)
    redis.call('HDEL', LIMITS, thing)
  elseif limit > 0 and went >= limit then
    mark(thing, math.max(now_ms + AGAIN, first), math.min(2 * went, MOST_TASKS))
  else
    mark(thing, first, limit - (limit > 0 and went or 0))
  end
end

-- Let up to n tasks of as many marked sets go on. Returns their ids. A refusal that was waited for elsewhere, or not at
-- all, leaves the mark of an empty set: those must not be more than are looked at.
local function take_marked(n, now_ms)
  local gone = {}
  for _, thing in ipairs(redis.call('ZRANGE', WAITS, '-inf', whole(now_ms), 'BYSCORE', 'LIMIT', 0, n)) do
    if #gone < n then
      take_from(thing, n - #gone, now_ms, gone)
    end
  end
  return gone
end

-- Let up to n tasks go on whose time has come. One whose set is going to be marked waits for that. Returns their ids.
local function take_due(n, now_ms)
  local gone = {}
  for _, id in ipairs(redis.call('ZRANGE', DELAYED, '-inf', whole(now_ms), 'BYSCORE', 'LIMIT', 0, n)) do
    local thing = redis.call('HGET', 'agent:task:' .. id, 'waits_for')
    local marked_at = thing and redis.call('ZSCORE', SET .. thing, id) and mark_of(thing)
    if marked_at and marked_at > now_ms and marked_at < now_ms + SOON then
      redis.call('ZADD', DELAYED, whole(now_ms + FALLBACK), id)
    else
      go_on(id, now_ms)
      gone[#gone + 1] = id
    end
  end
  return gone
end
