#!lua flags=allow-oom
-- End a task that no worker runs, with the result given; ask the worker of a running one to stop.
--
-- Uses shared/connections/clock: clock, natural, whole
-- Uses shared/queue/functions/turns: leave_thread, tenant_of
-- Uses shared/queue/functions/emptied: DEFERRED, is_removed
-- Uses shared/queue/functions/waits: go_on, leave_wait
-- Uses shared/queue/functions/rq_jobs: list_ended, task_bytes, write_result
-- Uses shared/queue/functions/shares: discharge
-- Uses shared/queue/functions/events: record_end
-- Uses shared/queue/functions/records/thread_rows: leave_late, list_end, list_unbegun, unlist_run
-- Uses shared/queue/functions/records/records: RECORDED, end_record, forget_record
-- Uses shared/queue/functions/records/remembered_ids: kept_ms, recall_id, remember_id
-- Uses shared/queue/functions/stops: stop
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] agent:result:<id>    string  the result document
-- KEYS[3] agent:events:<id>    stream  its events
-- KEYS[4] agent:open           zset    id -> deadline (ms)
-- KEYS[5] rq:job:<id>          hash    RQ's job
-- ARGV[1] id
-- ARGV[2] state to end in: cancelled; timeout or error leave a running task alone
-- ARGV[3] result document (JSON)
-- ARGV[4] result TTL (ms)
-- ARGV[5] events TTL (ms)
-- ARGV[6] forget the task after (ms): the idempotency window
-- ARGV[7] RQ's status: canceled | failed
-- ARGV[8] now as RQ writes it, for its tools only
-- ARGV[9] result document in base64, for the client of a job that stock RQ enqueued
-- ARGV[10] type of its error, empty for none
-- ARGV[11] 1 to remove what a cancelled one has written to its thread, else 0
-- ARGV[12] why it is cancelled, or empty
-- ARGV[13] RQ's failure text (base64 of zlib), empty for none
-- ARGV[14] now (ms) in tests, else empty
-- Returns {the state in which the task is now: the one asked for, another terminal one, running (it will be stopped if
--   it is being cancelled), pending (a worker has to remove what it has written), or empty when there is no such task;
--   1 if this call has ended it, else 0}
local task_key, result_key, events_key, open_key, job_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, state, result = ARGV[1], ARGV[2], ARGV[3]
local result_ms, events_ms, window_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local rq_status, now_iso, rq_result, now_ms = ARGV[7], ARGV[8], ARGV[9], clock(ARGV[14])
local error_type, is_rollback, why, rq_failure = ARGV[10], ARGV[11] == '1', ARGV[12], ARGV[13]
-- How long (ms) an id may stay behind in a list: what skips it looks at its task's hash.
local LISTED_MS = 86400000
-- A task that only waits to be rolled back has this time (ms) until a worker comes.
local ROLLBACK_MS = 86400000

local task = redis.call('HMGET', task_key, 'state', 'owner', 'place', 'thread', 'queue', 'waits_for', 'result_ms',
  'failure_ms', 'started', 'answers', 'digest', 'run', 'cancel', 'enters', unpack(RECORDED))
local before, owner, place, thread, queue, waits_for, own_ms, failure_ms, started, answers, digest, number, cancel, enters =
  unpack(task, 1, 14)
if not before then
  return {recall_id(id, now_ms) or '', 0}
end
if state == 'cancelled' and (before == 'running' or (before == 'pending' and is_rollback)) then
  stop(id, owner, is_rollback, why)
end
if before ~= 'pending' then
  return {before, 0}
end
is_rollback = is_rollback or cancel == 'rollback'
if is_rollback and started and state ~= 'error' and not is_removed(id) then
  redis.call('HSETNX', task_key, 'rollback_until', whole(now_ms + ROLLBACK_MS))
  local deadline = natural(redis.call('HGET', task_key, 'rollback_until'), 0)
  if deadline > now_ms then
    redis.call('HSET', task_key, 'deadline', whole(deadline))
    redis.call('ZADD', open_key, 'XX', whole(deadline), id)
    if place == 'delayed' then
      go_on(id, now_ms)
    end
    return {before, 0}
  end
end

result_ms = natural(rq_status == 'failed' and failure_ms or own_ms, result_ms)
-- Its id may stay behind in a list: the script that pops it skips it, and counts it if it lies where its hash says.
redis.call('HSET', task_key, 'state', state, 'place', place == 'queue' and place or 'done')
redis.call('PEXPIRE', task_key, kept_ms(math.max(result_ms, LISTED_MS), window_ms))
remember_id(id, state, digest, number, window_ms, now_ms)
redis.call('SET', result_key, result, 'PX', result_ms)
redis.call('ZREM', open_key, id)
if place == 'delayed' then
  leave_wait(id, waits_for)
  leave_late(id, enters)
end
record_end(id, events_key, state, events_ms)
redis.pcall('ZREM', DEFERRED .. (queue or ''), id)
leave_thread(id, thread)
local named = thread or enters -- by one that was to start at its time
if is_rollback then
  forget_record(id, number, named)
else
  end_record(id, number, named, state, {unpack(task, 15)}, error_type, now_ms)
end
if named and is_rollback then
  unlist_run(id, named, tenant_of(named), now_ms)
elseif named and started then
  list_end(named, tenant_of(named), state, nil, now_ms)
elseif named then
  list_unbegun(named, tenant_of(named), now_ms)
end
discharge(id, #result + task_bytes(job_key), result_ms, now_ms)
-- Its checkpoints are of no use any more, unless they are those of the task whose question it answers.
if started and not (thread or answers) then
  redis.pcall('RPUSH', 'agent:spent', id)
  redis.pcall('PEXPIRE', 'agent:spent', window_ms)
end

write_result('rq:results:' .. id, rq_status, own_ms and rq_result or '', rq_failure, '', result_ms)
if redis.call('EXISTS', job_key) == 1 then
  list_ended(id, queue or '', rq_status, result_ms, now_ms)
  redis.pcall('HSET', job_key, 'status', rq_status, 'ended_at', now_iso)
  redis.call('PEXPIRE', job_key, result_ms)
end
return {state, 1}
