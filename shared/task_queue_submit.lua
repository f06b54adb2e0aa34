-- Put one task on its queue, once. The same id again answers with the task that is there already.
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] rq:job:<id>          hash    RQ's job, read by its tools; `data` carries the task
-- KEYS[3] rq:queue:<queue>     list    runnable ids
-- KEYS[4] rq:queues            set     RQ's list of queues
-- KEYS[5] agent:open           zset    id -> created (ms); every task that is not terminal
-- KEYS[6] agent:graphs         zset    graph -> until when a live worker serves it (ms)
-- KEYS[7] agent:workers        zset    worker -> lease end (ms)
-- ARGV[1] id
-- ARGV[2] queue name
-- ARGV[3] job data: ["worker.run_task", null, [task], {}] as JSON
-- ARGV[4] digest of the body: tells the same task from another one under its id
-- ARGV[5] graph
-- ARGV[6] deadline (ms from now)
-- ARGV[7] forget after the deadline (ms): the idempotency window
-- ARGV[8] description for RQ's tools; never holds input
-- ARGV[9] now as RQ writes it, for its tools only
-- ARGV[10] refuse above this share of maxmemory (percent)
-- ARGV[11] now (ms) in tests, else empty
-- Returns {outcome, state or detail}:
--   created, pending | exists, <state> | conflict, <state> | full, <percent used> | unknown_graph, <graphs, comma separated>
local task_key, job_key, queue_key, queues_key, open_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local graphs_key, workers_key = KEYS[6], KEYS[7]
local id, queue, data, digest, graph = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local deadline_ms, window_ms = tonumber(ARGV[6]), tonumber(ARGV[7])
local description, now_iso, memory_mark = ARGV[8], ARGV[9], tonumber(ARGV[10])
local now_ms = tonumber(ARGV[11])
if not now_ms then
  local time = redis.call('TIME')
  now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
end

local known = redis.call('HMGET', task_key, 'digest', 'state')
if known[2] then
  return {known[1] == digest and 'exists' or 'conflict', known[2]}
end

-- A task that runs must still be able to write its checkpoints, so the door closes before the memory is full.
local info = redis.call('INFO', 'memory')
local max_memory = tonumber(info:match('maxmemory:(%d+)'))
if max_memory > 0 then
  local percent = tonumber(info:match('used_memory:(%d+)')) * 100 / max_memory
  if percent > memory_mark then
    return {'full', string.format('%.0f', percent)}
  end
end

-- With no worker alive nobody knows the graphs: the task waits.
if (tonumber(redis.call('ZSCORE', graphs_key, graph)) or 0) <= now_ms
    and redis.call('ZCOUNT', workers_key, now_ms, '+inf') > 0 then
  return {'unknown_graph', table.concat(redis.call('ZRANGEBYSCORE', graphs_key, now_ms, '+inf'), ', ')}
end

local ends_ms = string.format('%.0f', now_ms + deadline_ms)
local forget_ms = string.format('%.0f', now_ms + deadline_ms + window_ms)
redis.call('HSET', task_key, 'state', 'pending', 'epoch', 0, 'place', 'queue', 'queue', queue,
  'created', string.format('%.0f', now_ms), 'deadline', ends_ms, 'digest', digest)
redis.call('PEXPIREAT', task_key, forget_ms)
redis.call('HSET', job_key, 'data', data, 'origin', queue, 'status', 'queued', 'description', description,
  'created_at', now_iso, 'enqueued_at', now_iso, 'timeout', math.ceil(deadline_ms / 1000))
redis.call('PEXPIREAT', job_key, forget_ms)
redis.call('ZADD', open_key, string.format('%.0f', now_ms), id)
redis.call('SADD', queues_key, queue_key)
redis.call('RPUSH', queue_key, id)
return {'created', 'pending'}
