#!lua flags=allow-oom
-- Give a task back without charging it a crash: to the front of its queue, or to wait for something or for its time.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/fence: fence
-- Uses shared/queue/functions/turns: put_back, stopped_running
-- Uses shared/queue/functions/waits: enter
-- Uses shared/queue/functions/rq_jobs: hide_execution
-- Uses shared/queue/functions/events: record_state, record_wait
--
-- KEYS[1] agent:task:<id>        hash    the task's state
-- KEYS[2] agent:own:<worker>     set     ids that this worker owns
-- KEYS[3] rq:wip:<queue>         zset    RQ's registry of running jobs
-- KEYS[4] rq:job:<id>            hash    RQ's job
-- ARGV[1] id
-- ARGV[2] epoch
-- ARGV[3] worker
-- ARGV[4] thing that it waits for, empty for none
-- ARGV[5] how long it waits (ms); 0: until the thing is free
-- ARGV[6] 1 if later waits for the same thing get longer, else 0
-- ARGV[7] 1 if the graph failed, which counts against max_attempts, else 0
-- ARGV[8] 1 if the claim counts as an attempt, else 0
-- ARGV[9] longest stream of events (entries, about)
-- ARGV[10] how many tasks may share its child process from now on, itself included; 0: as many as before
-- ARGV[11] now (ms) in tests, else empty
-- Returns 1 released | 0 fenced off
local task_key, own_key, wip_key, job_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, epoch, worker, thing, delay_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local doubles = ARGV[6] == '1'
local failures, is_attempt, longest = tonumber(ARGV[7]), ARGV[8] == '1', ARGV[9]
local group_size, now_ms = ARGV[10], clock(ARGV[11])

local is_owner, task = fence(task_key, epoch, worker, 'queue', 'user', 'cancel')
local queue, user, cancel = unpack(task)
if not is_owner then
  return 0
end
redis.call('SREM', own_key, id)
if failures > 0 then
  redis.call('HINCRBY', task_key, 'failures', failures)
end
if group_size ~= '0' then
  redis.call('HSET', task_key, 'group_size', group_size)
end
if not is_attempt then
  redis.call('HINCRBY', task_key, 'waits', 1)
end
stopped_running(user)
local until_ms
-- A cancelled one ends at once, unless an outage keeps what it wrote from being removed.
if thing == '' or (cancel and not (cancel == 'rollback' and thing == 'redis')) then
  put_back(id, queue, user)
else
  until_ms = enter(id, queue, user, thing, delay_ms, doubles, now_ms)
end
if until_ms then
  record_wait(id, epoch, longest, thing, until_ms)
else
  record_state(id, 'pending', epoch, longest)
end
hide_execution(id, epoch, wip_key)
if redis.call('EXISTS', job_key) == 1 then
  redis.pcall('HSET', job_key, 'worker_name', '')
end
return 1
