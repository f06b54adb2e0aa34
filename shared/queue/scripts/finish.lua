#!lua flags=allow-oom
-- Write a task's one terminal result, if the caller still owns it. With memory full running tasks must still end.
--
-- Uses shared/connections/clock: clock, natural
-- Uses shared/queue/functions/fence: fence
-- Uses shared/queue/functions/questions: settle_question
-- Uses shared/queue/functions/turns: leave_thread, stopped_running, tenant_of
-- Uses shared/queue/functions/rq_jobs: hide_execution, list_ended, task_bytes, write_result
-- Uses shared/queue/functions/shares: discharge
-- Uses shared/queue/functions/events: record_end
-- Uses shared/queue/functions/records/thread_rows: INDEX, STATE, expire_state, list_end, shorten_state, unlist_run
-- Uses shared/queue/functions/records/records: RECORDED, end_record, forget_record
-- Uses shared/queue/functions/records/remembered_ids: kept_ms, remember_id
--
-- KEYS[1] agent:task:<id>        hash    the task's state
-- KEYS[2] agent:result:<id>      string  the result document
-- KEYS[3] agent:events:<id>      stream  its events
-- KEYS[4] agent:own:<worker>     set     ids that this worker owns
-- KEYS[5] agent:open             zset    id -> deadline (ms)
-- KEYS[6] rq:job:<id>            hash    RQ's job
-- KEYS[7] rq:wip:<queue>         zset    RQ's registry of running jobs
-- KEYS[8] rq:results:<id>        stream  RQ's results: of failures, so that its tools show the reason, and of all jobs of
--                                        stock RQ
-- KEYS[9] rq:worker:<worker>     hash    RQ's worker
-- ARGV[1] id
-- ARGV[2] epoch
-- ARGV[3] worker
-- ARGV[4] terminal state
-- ARGV[5] result document (JSON)
-- ARGV[6] result TTL (ms)
-- ARGV[7] events TTL (ms)
-- ARGV[8] forget the task after (ms): the idempotency window
-- ARGV[9] RQ's status: finished | failed | canceled
-- ARGV[10] RQ's failure text (base64 of zlib), empty for none
-- ARGV[11] now as RQ writes it, for its tools only
-- ARGV[12] run time (s), for RQ's worker statistics
-- ARGV[13] job data that replaces the task's, which may be long and is not needed any more; empty: keep it
-- ARGV[14] result document in base64, for the client of a job that stock RQ enqueued, else empty
-- ARGV[15] what the end means for its thread: asks | keeps (the question of an earlier task) | empty
-- ARGV[16] how long deadlines stand still for a question (ms)
-- ARGV[17] type of its error, empty for none
-- ARGV[18] 1 if what the task has written to its thread is removed, else 0
-- ARGV[19] thread of its own whose checkpoints, if they are in this Redis, are not needed any more; empty for none
-- ARGV[20] how long they are kept (ms), or those of the thread that it names at most; 0: these are left as they are
-- ARGV[21] name of the last checkpoint that it has saved on its thread, if they are in this Redis; else empty
-- ARGV[22] fencing token of the claim
-- ARGV[23] now (ms) in tests, else empty
-- Returns 1 written | 2 already written by this very attempt (its reply was lost) | 0 fenced off | 3 the task is to be
--   rolled back: the caller removes what it has written first | 4 the last checkpoint is not there: a replica was promoted
--   that lacks it, and the task is to go on from the one before. A thread that an operation has deleted meanwhile has a
--   higher token: its task ends
local task_key, result_key, events_key, own_key, open_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local job_key, wip_key, rq_results_key, rq_worker_key = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local id, epoch, worker, state, result = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local result_ms, events_ms, window_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local rq_status, rq_failure, now_iso, run_s = ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local emptied_data, rq_result, question, still_ms = ARGV[13], ARGV[14], ARGV[15], tonumber(ARGV[16])
local error_type, is_rolled_back, own_thread, own_thread_ms = ARGV[17], ARGV[18] == '1', ARGV[19], ARGV[20]
local last_checkpoint, token, now_ms = ARGV[21], tonumber(ARGV[22]), clock(ARGV[23])

local is_owner, task, known_state = fence(task_key, epoch, worker, 'thread', 'queue', 'result_ms', 'failure_ms', 'digest',
  'run', 'cancel', unpack(RECORDED))
local thread, queue, own_ms, failure_ms, digest, number, cancel = unpack(task, 1, 7)
local recorded = {unpack(task, 8)}
local user, accepted_ms = recorded[2], natural(recorded[3], 0)
if not is_owner then
  return known_state == state and 2 or 0
end
if cancel == 'rollback' and not is_rolled_back then
  return 3
end
if thread and last_checkpoint ~= '' and not redis.call('ZSCORE', INDEX .. thread, last_checkpoint)
  and (tonumber(redis.call('HGET', STATE .. thread, 't') or '') or 0) <= token then
  return 4
end

if state ~= 'interrupted' then
  result_ms = natural(rq_status == 'failed' and failure_ms or own_ms, result_ms)
end
redis.call('HSET', task_key, 'state', state, 'place', 'done')
redis.call('PEXPIRE', task_key, kept_ms(result_ms, window_ms))
remember_id(id, state, digest, number, window_ms, now_ms)
redis.call('SET', result_key, result, 'PX', result_ms)
redis.call('SREM', own_key, id)
redis.call('ZREM', open_key, id)
record_end(id, events_key, state, events_ms)
stopped_running(user)
if thread then
  settle_question(id, thread, question, still_ms, window_ms + still_ms, now_ms)
end
leave_thread(id, thread)
if is_rolled_back then
  forget_record(id, number, thread)
else
  end_record(id, number, thread, state, recorded, error_type, now_ms)
end
if thread and is_rolled_back then
  expire_state(thread, unlist_run(id, thread, tenant_of(thread), now_ms))
elseif thread then
  local ttl_ms = list_end(thread, tenant_of(thread), state, accepted_ms, now_ms)
  expire_state(thread, ttl_ms)
  if not ttl_ms then
    shorten_state(thread, tonumber(own_thread_ms))
  end
elseif own_thread ~= '' then
  expire_state(own_thread, own_thread_ms)
end
local kept_data = emptied_data ~= '' and #emptied_data or (task_bytes(job_key))
discharge(id, #result + #rq_result + kept_data, result_ms, now_ms)

-- From here on it is for RQ's tools only: a broken key of theirs must not undo what was decided above.
hide_execution(id, epoch, wip_key)
if rq_status ~= 'failed' then -- a worker of stock RQ may have taken the task by mistake, and failed
  redis.pcall('ZREM', 'rq:failed:' .. (queue or ''), id)
end
if redis.call('EXISTS', job_key) == 1 then
  list_ended(id, queue or '', rq_status, result_ms, now_ms)
  if emptied_data ~= '' then
    redis.pcall('HSET', job_key, 'status', rq_status, 'ended_at', now_iso, 'data', emptied_data)
    redis.pcall('HDEL', job_key, 'task')
  else
    redis.pcall('HSET', job_key, 'status', rq_status, 'ended_at', now_iso)
  end
  redis.call('PEXPIRE', job_key, result_ms)
end
write_result(rq_results_key, rq_status, own_ms and rq_result or '', rq_failure, worker, result_ms)
if redis.call('EXISTS', rq_worker_key) == 1 then
  redis.pcall('HINCRBY', rq_worker_key, rq_status == 'finished' and 'successful_job_count' or 'failed_job_count', 1)
  redis.pcall('HINCRBYFLOAT', rq_worker_key, 'total_working_time', run_s)
  if redis.call('SCARD', own_key) == 0 then
    redis.pcall('HSET', rq_worker_key, 'state', 'idle')
  end
end
return 1
