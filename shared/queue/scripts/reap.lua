#!lua flags=allow-oom
-- Bring back the tasks of workers whose lease has ended, to the front of their queues, and promote delayed tasks that
-- are due, some of those whose thing is free, and jobs of stock RQ that were enqueued for later, or after others. Forget
-- those that it cancelled. Any number of callers; each does a bounded batch.
--
-- Uses shared/connections/clock: clock, natural, whole
-- Uses shared/queue/functions/turns: put_back, stopped_running
-- Uses shared/queue/functions/waits: take_due, take_marked
-- Uses shared/queue/functions/rq_jobs: forget_cancelled, hide_execution, queue_dependents, queue_scheduled
-- Uses shared/queue/functions/events: record_state
--
-- KEYS[1] agent:workers      zset    worker -> lease end (ms)
-- KEYS[2] agent:delayed      zset    id -> when it goes on without a mark (ms)
-- KEYS[3] rq:workers         set     RQ's workers
-- KEYS[4] agent:waits        zset    thing -> from when on its set is marked (ms)
-- KEYS from the 5th on: rq:scheduled:<queue>, of the caller's queues, zsets  id -> when it is to be queued (s)
-- ARGV[1] n, tasks at most, of all kinds
-- ARGV[2] the worker that calls, which may reap while it has a lease itself; empty: a caller that is no worker
-- ARGV[3] longest stream of events (entries, about)
-- ARGV[4] now as RQ writes it, for its tools only
-- ARGV[5] now (ms) in tests, else empty
-- Returns {ids reaped, ids that were due, ids whose thing is free, ms until there may be more, an hour at most}
local workers_key, delayed_key, rq_workers_key, waits_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local n, caller, longest, now_iso, now_ms = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], clock(ARGV[5])
local now = whole(now_ms)
local MOST_MS, SHORTLY = 3600000, 250 -- a score may be infinite
-- Ids of dead workers that are looked at, to put those back first that started last.
local MOST_OWN = 200
local looked_at = 0

-- The task that started last is put back first, which restores the order at the front of the queue.
local function latest_first(ids)
  local started = {}
  for _, id in ipairs(ids) do
    started[id] = natural(redis.call('HGET', 'agent:task:' .. id, 'started'), 0)
  end
  table.sort(ids, function(a, b)
    if started[a] ~= started[b] then
      return started[a] > started[b]
    end
    return a > b
  end)
  return ids
end

-- A worker whose lease is over was held up, or its call was. The others may have been too, and get the time to renew.
local may_reap = caller == '' or tonumber(redis.call('ZSCORE', workers_key, caller) or 0) > now_ms
local dead = may_reap and redis.call('ZRANGEBYSCORE', workers_key, '-inf', now, 'LIMIT', 0, 10) or {}

local reaped = {}
for _, worker in ipairs(dead) do
  if #reaped >= n or looked_at >= MOST_OWN then
    break
  end
  local own_key = 'agent:own:' .. worker
  local own = redis.call('SRANDMEMBER', own_key, MOST_OWN - looked_at)
  looked_at = looked_at + #own
  for _, id in ipairs(latest_first(own)) do
    if #reaped >= n then
      break
    end
    redis.call('SREM', own_key, id)
    local task_key = 'agent:task:' .. id
    local task = redis.call('HMGET', task_key, 'state', 'owner', 'queue', 'epoch', 'user')
    if task[1] == 'running' and task[2] == worker and task[3] then
      redis.call('HINCRBY', task_key, 'crashes', 1)
      hide_execution(id, task[4] or '', 'rq:wip:' .. task[3])
      stopped_running(task[5])
      put_back(id, task[3], task[5])
      record_state(id, 'pending', natural(task[4], 0), longest)
      if redis.call('EXISTS', 'rq:job:' .. id) == 1 then
        redis.pcall('HSET', 'rq:job:' .. id, 'worker_name', '')
      end
      reaped[#reaped + 1] = id
    end
  end
  if redis.call('EXISTS', own_key) == 0 then
    redis.call('ZREM', workers_key, worker)
    local rq_key = 'rq:worker:' .. worker
    for queue in (redis.call('HGET', rq_key, 'queues') or ''):gmatch('[^,]+') do
      redis.pcall('SREM', 'rq:workers:' .. queue, rq_key)
    end
    redis.pcall('SREM', rq_workers_key, rq_key)
    redis.call('DEL', rq_key)
  end
end

local due = take_due(n - #reaped, now_ms)
local woken = take_marked(n - #reaped - #due, now_ms)
local left_n = n - #reaped - #due - #woken
local scheduled_in = MOST_MS
for i = 5, #KEYS do
  local queue = KEYS[i]:sub(#'rq:scheduled:' + 1)
  local scheduled, next_in = queue_scheduled(KEYS[i], left_n, now_ms, now_iso)
  for _, ids in ipairs({scheduled, queue_dependents(queue, left_n - #scheduled)}) do
    left_n = left_n - #ids
    for _, id in ipairs(ids) do
      due[#due + 1] = id
    end
  end
  scheduled_in = math.min(scheduled_in, next_in or MOST_MS)
  forget_cancelled(queue, now_ms)
end

-- Returns ms until the first member is due, or `longest`.
local function left(key, longest)
  local at = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  return math.min(at and math.max(0, at - now_ms) or longest, longest)
end
-- A set that stays marked is left to claims, and looked at again shortly.
return {reaped, due, woken,
  math.min(left(delayed_key, MOST_MS), math.max(left(waits_key, MOST_MS), SHORTLY), scheduled_in)}
