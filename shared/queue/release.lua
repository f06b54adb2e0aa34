#!lua flags=allow-oom
-- Give a task back without charging it a crash: to the front of its queue, or for later.
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
-- ARGV[6] now (ms) in tests, else empty
-- Returns 1 released | 0 fenced off
local task_key, own_key, delayed_key, wip_key, job_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, epoch, worker, delay_ms, failures = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local now_ms = clock(ARGV[6])

local task = redis.call('HMGET', task_key, 'state', 'epoch', 'owner', 'queue', 'user', 'cancel')
local queue, user = task[4], task[5]
if task[1] ~= 'running' or task[2] ~= epoch or task[3] ~= worker then
  return 0
end
redis.call('SREM', own_key, id)
if failures > 0 then
  redis.call('HINCRBY', task_key, 'failures', failures)
end
stopped_running(user)
if task[6] then
  delay_ms = 0 -- whoever cancelled it need not wait out its delay
end
if delay_ms > 0 then
  redis.call('HSET', task_key, 'state', 'pending', 'place', 'delayed')
  redis.call('HDEL', task_key, 'owner')
  redis.call('ZADD', delayed_key, whole(now_ms + delay_ms), id)
else
  put_back(id, queue, user)
end
tell_state(id, 'pending', epoch)
redis.pcall('ZREM', wip_key, id .. ':' .. epoch)
if redis.call('EXISTS', job_key) == 1 then
  redis.pcall('HSET', job_key, 'status', delay_ms > 0 and 'scheduled' or 'queued', 'worker_name', '')
end
return 1
