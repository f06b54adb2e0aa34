#!lua flags=allow-oom
-- Take over a job that stock RQ enqueued, once its owner has read and checked the task in it. From then on it is a task
-- like any other; one whose thread is busy is parked and leaves its owner, and one whose graph the owner does not serve
-- is put aside for a worker that does. The latter holds for any task.
--
-- Uses shared/connections/clock: clock, natural, whole
-- Uses shared/queue/functions/fence: fence
-- Uses shared/queue/functions/turns: enter_thread, put_aside, stopped_running, tenant_of, wait_below_cap, wake_thread
-- Uses shared/queue/functions/rq_jobs: describe, hide_execution
-- Uses shared/queue/functions/shares: charge
-- Uses shared/queue/functions/waits: wait_to_start
-- Uses shared/queue/functions/records/thread_rows: list_run
-- Uses shared/queue/functions/records/records: begin_record
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] rq:job:<id>          hash    RQ's job
-- KEYS[3] agent:open           zset    id -> deadline (ms)
-- KEYS[4] agent:own:<worker>   set     ids that this worker owns
-- KEYS[5] agent:graphs         zset    graph -> until when a live worker serves it (ms)
-- ARGV[1] id
-- ARGV[2] epoch
-- ARGV[3] worker
-- ARGV[4] digest of the body
-- ARGV[5] deadline (ms after its start)
-- ARGV[6] description for RQ's tools, of a job that has none of its own
-- ARGV[7] the task, as in job data, rewritten with the defaults of the fields that were left out
-- ARGV[8] user
-- ARGV[9] thread, empty for none
-- ARGV[10] graph, as in the names of queues
-- ARGV[11] 1 if the worker serves the graph, else 0
-- ARGV[12] graph, as workers announce it
-- ARGV[13] keep the result of a success (ms)
-- ARGV[14] keep that of a failure (ms)
-- ARGV[15] tasks of one user in flight at most, 0 for any number
-- ARGV[16] 1 if it goes on with what its thread did last (answers its question), else 0
-- ARGV[17] start it after (ms after the job was found), 0 for at once
-- ARGV[18] start it at (ms), 0 for at once
-- ARGV[19] what its client said about the run, for its record; empty for nothing
-- ARGV[20] newest runs of its tenant whose records are kept
-- ARGV[21] now (ms) in tests, else empty
-- Returns the deadline (ms), 0 fenced off, -1 parked behind another task of its thread, put aside, or waiting for its
--   time or because its user is at the cap, or -2 when no worker had the graph in the last day: this is the door of such jobs
local task_key, job_key, open_key, own_key, graphs_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, epoch, worker, digest = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local deadline_ms, description = tonumber(ARGV[5]), ARGV[6]
local data, user, thread, graph, is_served = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11] == '1'
local announced_graph, result_ms, failure_ms, cap = ARGV[12], ARGV[13], ARGV[14], tonumber(ARGV[15])
local about, most_records = ARGV[19], tonumber(ARGV[20])
local is_answer, now_ms = ARGV[16] == '1', clock(ARGV[21])

local is_owner, task = fence(task_key, epoch, worker, 'created', 'queue', 'digest', 'deadline', 'cancel')
local created, queue, known_digest, known_deadline, cancel = unpack(task)
if not is_owner then
  return '0'
end
is_served = is_served or cancel -- any worker can end it
local is_known = known_digest == digest -- a task of ours, or the reply to an earlier call was lost
if is_known and is_served then
  return known_deadline
end
if not is_served and not is_known
    and (tonumber(redis.call('ZSCORE', graphs_key, announced_graph)) or 0) <= now_ms - 86400000 then
  return '-2'
end
local delay_ms, run_at = tonumber(ARGV[17]), tonumber(ARGV[18])
local starts_at = math.max(created + delay_ms, run_at)
local deadline, is_next, drops = whole(starts_at + deadline_ms), true, false
-- Not by the clock alone: that of a replica that was promoted may be behind the time at which the job was found.
local is_early = not (is_known or cancel) and delay_ms + run_at > 0 and starts_at > now_ms
if is_known then
  stopped_running(user)
else
  redis.call('HSET', task_key, 'digest', digest, 'deadline', deadline, 'user', user, 'result_ms', result_ms,
    'failure_ms', failure_ms, 'run', begin_record(id, thread, graph, user, about, most_records, now_ms))
  describe(job_key, description)
  redis.call('HSET', job_key, 'task', data, 'timeout', math.ceil(deadline_ms / 1000))
  redis.call('PERSIST', job_key)
  redis.call('ZADD', open_key, deadline, id)
  charge(id, #data)
  if is_answer then
    redis.call('HSET', task_key, 'answers', 1)
  end
  if thread ~= '' then
    list_run(id, thread, tenant_of(thread), announced_graph, about, now_ms)
  end
  if thread ~= '' and not is_early then
    is_next, drops = enter_thread(id, queue, thread, is_answer, now_ms)
  end
end
redis.call('HSET', task_key, 'graph', graph)
local is_capped = not is_known and is_served and is_next and cap > 0
  and natural(redis.call('HGET', 'agent:in_flight', user), 0) >= cap
if is_served and is_next and not (is_capped or is_early) then
  redis.call('HINCRBY', 'agent:in_flight', user, 1)
  return deadline
end

redis.call('HSET', task_key, 'state', 'pending', 'place', 'parked')
redis.call('HDEL', task_key, 'owner', 'started')
redis.call('HINCRBY', task_key, 'waits', 1)
redis.call('SREM', own_key, id)
hide_execution(id, epoch, 'rq:wip:' .. queue)
redis.pcall('HSET', job_key, 'worker_name', '')
if is_early then
  wait_to_start(id, thread, starts_at, now_ms)
elseif is_capped then
  wait_below_cap('RPUSH', id, queue, user)
elseif is_next then
  put_aside(id, queue, graph, user)
elseif drops then
  wake_thread(id, thread)
end
return '-1'
