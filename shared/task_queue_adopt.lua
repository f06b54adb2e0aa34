#!lua flags=allow-oom
-- Take over a job that stock RQ enqueued, once its owner has read and checked the task in it.
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] rq:job:<id>          hash    RQ's job
-- ARGV[1] epoch
-- ARGV[2] worker
-- ARGV[3] digest of the body
-- ARGV[4] deadline (ms after the job was found)
-- ARGV[5] forget after the deadline (ms)
-- ARGV[6] description for RQ's tools; replaces RQ's own, which shows the input
-- Returns the deadline (ms), or 0 fenced off
local task_key, job_key = KEYS[1], KEYS[2]
local epoch, worker, digest = ARGV[1], ARGV[2], ARGV[3]
local deadline_ms, window_ms, description = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local task = redis.call('HMGET', task_key, 'state', 'epoch', 'owner', 'created')
if task[1] ~= 'running' or task[2] ~= epoch or task[3] ~= worker then
  return '0'
end
local deadline = string.format('%.0f', task[4] + deadline_ms)
local forget = string.format('%.0f', task[4] + deadline_ms + window_ms)
redis.call('HSET', task_key, 'digest', digest, 'deadline', deadline)
redis.call('PEXPIREAT', task_key, forget)
redis.call('HSET', job_key, 'description', description)
redis.call('PEXPIREAT', job_key, forget)
return deadline
