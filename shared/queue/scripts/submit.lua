-- Put one task on its queue, once. The same id again returns the state of the task that is there already.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/functions/routing: route
-- Uses shared/queue/functions/turns: QUEUE_KEY, enqueue, enter_thread, tenant_of, wake_thread
-- Uses shared/queue/functions/emptied: statuses
-- Uses shared/queue/functions/shares: charge, is_above_share, refused
-- Uses shared/queue/functions/waits: go_on, wait_to_start
-- Uses shared/queue/functions/records/thread_rows: is_busy, list_run
-- Uses shared/queue/functions/records/records: begin_record
-- Uses shared/queue/functions/records/remembered_ids: recall_id, shortened
-- Uses shared/queue/functions/stops: stop_thread
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] rq:job:<id>          hash    RQ's job, read by its tools; `task` carries the task, because RQ's clients write
--                                      `data` when they enqueue under the same id
-- KEYS[3] rq:queues            set     RQ's list of queues
-- KEYS[4] agent:open           zset    id -> deadline (ms); every task that is not terminal
-- KEYS[5] agent:graphs         zset    graph -> until when a live worker serves it (ms)
-- KEYS[6] agent:workers        zset    worker -> lease end (ms)
-- ARGV[1] id
-- ARGV[2] queue name
-- ARGV[3] job data: ["langgraph_rq.run_task", null, [task], {}] as JSON
-- ARGV[4] digest of the body: tells the same task from another one under its id
-- ARGV[5] graph, as in the names of queues
-- ARGV[6] deadline (ms from its start)
-- ARGV[7] description for RQ's tools; never holds input
-- ARGV[8] user, by whom tasks take turns
-- ARGV[9] thread whose tasks run one at a time, empty for none
-- ARGV[10] now as RQ writes it, for its tools only
-- ARGV[11] refuse above this share of maxmemory (percent)
-- ARGV[12] graph, as workers announce it
-- ARGV[13] open tasks of its tenant at most, 0 for any number
-- ARGV[14] bytes of its tenant's tasks and results at most, 0 for any number
-- ARGV[15] refuse a tenant that holds more than its share above this share of maxmemory (percent)
-- ARGV[16] job data for RQ's tools, which hold no input
-- ARGV[17] 1 if it goes on with what its thread did last (answers its question), else 0
-- ARGV[18] start it after (ms from now), 0 for at once
-- ARGV[19] start it at (ms), 0 for at once
-- ARGV[20] while its thread has open tasks: reject refuses it; interrupt stops them, rollback stops them and removes what
--   they have written; enqueue lets it wait for them
-- ARGV[21] what its client said about the run, for its record; empty for nothing
-- ARGV[22] newest runs of its tenant whose records are kept
-- ARGV[23] now (ms) in tests, else empty
-- Returns {outcome, state or detail, what is missing of a worker that could run it, ids of tasks that it stops, ...}, the
--   last ones for created only:
--   created, pending | exists, <state> | conflict, <state> | full, <percent used> | unknown_graph, <graphs, comma separated> |
--   busy, <the thread> | tenant_tasks, <open tasks> | tenant_bytes, <bytes held> | tenant_share, <percent used>
local task_key, job_key, queues_key, open_key, graphs_key, workers_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, queue, data, digest, graph = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local deadline_ms, description = tonumber(ARGV[6]), ARGV[7]
local user, thread, now_iso, memory_mark = ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local announced_graph, most_tasks, most_bytes = ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14])
local share_mark, rq_data = tonumber(ARGV[15]), ARGV[16]
local about, most_records = ARGV[21], tonumber(ARGV[22])
local is_answer, strategy, now_ms = ARGV[17] == '1', ARGV[20], clock(ARGV[23])

local starts_at = math.max(now_ms + tonumber(ARGV[18]), tonumber(ARGV[19]))
local deadline = whole(starts_at + deadline_ms)

local known = redis.call('HMGET', task_key, 'digest', 'state')
if known[2] then
  return {known[1] == digest and 'exists' or 'conflict', known[2]}
end
local ended_as, ended_digest = recall_id(id, now_ms)
if ended_as then
  return {ended_digest == shortened(digest) and 'exists' or 'conflict', ended_as}
end

if strategy == 'reject' and thread ~= '' and is_busy(thread) then
  return {'busy', thread}
end

-- Running tasks must still be able to write their checkpoints, so new ones are refused before the memory is full.
local info = redis.call('INFO', 'memory')
local _, ends = info:find('\nmaxmemory:', 1, true) -- a pattern would be tried at each of its 3,000 characters
local max_memory = tonumber(info:match('^%d+', ends + 1))
if max_memory > 0 then
  local percent = tonumber(info:match('used_memory:(%d+)')) * 100 / max_memory
  if percent > memory_mark then
    return {'full', whole(percent)}
  elseif percent > share_mark and is_above_share(tenant_of(user), now_ms) then
    return {'tenant_share', whole(percent)}
  end
end
local why, amount = refused(tenant_of(user), #data, most_tasks, most_bytes, now_ms)
if why then
  return {why, whole(amount)}
end

-- A graph that a worker had in the last day may come back with the next one: the task waits for it. With no live worker
-- the graphs are unknown.
if (tonumber(redis.call('ZSCORE', graphs_key, announced_graph)) or 0) <= now_ms - 86400000
    and redis.call('ZCOUNT', workers_key, '(' .. whole(now_ms), '+inf') > 0 then
  return {'unknown_graph', table.concat(redis.call('ZRANGEBYSCORE', graphs_key, now_ms, '+inf', 'LIMIT', 0, 100), ', ')}
end

local missing
queue, missing = route(queue, graph, now_ms)
local number = begin_record(id, thread, graph, user, about, most_records, now_ms)
redis.call('HSET', task_key, 'state', 'pending', 'epoch', 0, 'queue', queue, 'created', whole(now_ms),
  'deadline', deadline, 'digest', digest, 'user', user,
  'graph', graph, 'run', number)
-- An earlier task under this id may be forgotten before its result, which is not this task's.
redis.call('DEL', 'agent:result:' .. id, 'agent:events:' .. id, job_key)
redis.call('HSET', job_key, 'task', data, 'data', rq_data, 'origin', queue, 'description', description,
  'created_at', now_iso, 'enqueued_at', now_iso, 'timeout', math.ceil(deadline_ms / 1000))
statuses[id] = '' -- it gets one where it goes; a second one would make Redis enlarge the hash
redis.call('ZADD', open_key, deadline, id)
redis.call('SADD', queues_key, QUEUE_KEY .. queue)
charge(id, #data)
if is_answer then
  redis.call('HSET', task_key, 'answers', 1)
end
local stopped, delayed = {}, {}
if thread ~= '' then
  if strategy == 'interrupt' or strategy == 'rollback' then
    local why_stopped = 'superseded by ' .. (id:match('^.-%-%-(.*)') or id)
    stopped, delayed = stop_thread(id, thread, strategy == 'rollback', why_stopped)
  end
  for _, other in ipairs(delayed) do
    go_on(other, now_ms)
  end
  list_run(id, thread, tenant_of(thread), announced_graph, about, now_ms)
end
local answer = {'created', 'pending', missing or '', unpack(stopped)}
if starts_at > now_ms then
  wait_to_start(id, thread, starts_at, now_ms)
  return answer
end
if thread ~= '' then
  local is_next, drops = enter_thread(id, queue, thread, is_answer, now_ms)
  if drops then
    wake_thread(id, thread)
  end
  if not is_next then
    return answer
  end
end
enqueue(id, queue, user)
return answer
