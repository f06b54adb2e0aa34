#!lua flags=allow-oom
-- Take over a job that stock RQ enqueued, once its owner has read and checked the task in it. From then on it is a task
-- like any other; one whose thread is busy is parked and leaves its owner.
--
-- Uses shared/connections/clock: whole
-- Uses shared/queue/fence: fence
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] rq:job:<id>          hash    RQ's job
-- KEYS[3] agent:open           zset    id -> deadline (ms)
-- KEYS[4] agent:own:<worker>   set     ids that this worker owns
-- ARGV[1] id
-- ARGV[2] epoch
-- ARGV[3] worker
-- ARGV[4] digest of the body
-- ARGV[5] deadline (ms after the job was found)
-- ARGV[6] forget after the deadline (ms)
-- ARGV[7] description for RQ's tools; replaces RQ's own, which shows the input
-- ARGV[8] job data, rewritten with the defaults of the fields that were left out
-- ARGV[9] user
-- ARGV[10] thread, empty for none
-- Returns the deadline (ms), 0 fenced off, or -1 parked behind another task of its thread
local task_key, job_key, open_key, own_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, epoch, worker, digest = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local deadline_ms, window_ms, description = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local data, user, thread = ARGV[8], ARGV[9], ARGV[10]

local is_owner, task = fence(task_key, epoch, worker, 'created', 'queue', 'digest', 'deadline')
local created, queue, known_digest, known_deadline = unpack(task)
if not is_owner then
  return '0'
end
if known_digest == digest then -- the reply to an earlier call was lost
  return known_deadline
end
local deadline = whole(created + deadline_ms)
local forget = whole(created + deadline_ms + window_ms)
redis.call('HSET', task_key, 'digest', digest, 'deadline', deadline, 'user', user)
redis.call('PEXPIREAT', task_key, forget)
redis.call('HSET', job_key, 'description', description, 'data', data)
redis.call('PEXPIREAT', job_key, forget)
redis.call('ZADD', open_key, deadline, id)
if thread ~= '' then
  redis.call('HSET', task_key, 'thread', thread)
  if redis.call('RPUSH', 'agent:thread:' .. thread, id) > 1 then
    redis.call('HSET', task_key, 'state', 'pending', 'place', 'parked')
    redis.call('HDEL', task_key, 'owner')
    redis.call('SREM', own_key, id)
    redis.pcall('ZREM', 'rq:wip:' .. queue, id .. ':' .. epoch)
    redis.pcall('HSET', job_key, 'status', 'deferred', 'worker_name', '')
    return '-1'
  end
end
redis.call('HINCRBY', 'agent:in_flight', user, 1)
return deadline
