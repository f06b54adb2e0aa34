#!lua flags=allow-oom
-- Give a task back without charging it a crash: to the front of its queue, or for later.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/fence: fence
-- Uses shared/queue/turns: put_back, stopped_running
-- Uses shared/queue/events: record_state
--
-- KEYS[1] agent:task:<id>        hash    the task's state
-- KEYS[2] agent:own:<worker>     set     ids that this worker owns
-- KEYS[3] agent:delayed          zset    id -> when it is due (ms)
-- KEYS[4] rq:wip:<queue>         zset    RQ's registry of running jobs
-- KEYS[5] rq:job:<id>            hash    RQ's job
-- ARGV[1] id
-- ARGV[2] epoch
-- ARGV[3] worker
-- ARGV[4] delay (ms), 0 for at once
-- ARGV[5] 1 if the graph failed, which counts against max_attempts, else 0
-- ARGV[6] longest stream of events (entries, about)
-- ARGV[7] now (ms) in tests, else empty
-- Returns 1 released | 0 fenced off
local task_key, own_key, delayed_key, wip_key, job_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, epoch, worker, delay_ms, failures = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local longest, now_ms = ARGV[6], clock(ARGV[7])

local is_owner, task = fence(task_key, epoch, worker, 'queue', 'user', 'cancel')
local queue, user, cancel = unpack(task)
if not is_owner then
  return 0
end
redis.call('SREM', own_key, id)
if failures > 0 then
  redis.call('HINCRBY', task_key, 'failures', failures)
end
stopped_running(user)
if cancel then
  delay_ms = 0 -- it ends at once
end
if delay_ms > 0 then
  redis.call('HSET', task_key, 'state', 'pending', 'place', 'delayed')
  redis.call('HDEL', task_key, 'owner')
  redis.call('ZADD', delayed_key, whole(now_ms + delay_ms), id)
else
  put_back(id, queue, user)
end
record_state(id, 'pending', epoch, longest)
redis.pcall('ZREM', wip_key, id .. ':' .. epoch)
if redis.call('EXISTS', job_key) == 1 then
  redis.pcall('HSET', job_key, 'status', delay_ms > 0 and 'scheduled' or 'queued', 'worker_name', '')
end
return 1
