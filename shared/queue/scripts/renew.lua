#!lua flags=allow-oom
-- Join the fleet, or extend the lease of a worker that has joined. A lease that ran out may be renewed until another
-- worker reaps: only then does ownership move.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/functions/rq_jobs: show_execution
-- Uses shared/queue/functions/turns: tenant_of
-- Uses shared/queue/functions/records/thread_rows: TO_KEEP, is_busy, keep_open_thread
--
-- KEYS[1] agent:workers          zset    worker -> lease end (ms)
-- KEYS[2] agent:own:<worker>     set     ids that this worker owns
-- KEYS[3] agent:graphs           zset    graph -> until when a live worker serves it (ms)
-- KEYS[4] agent:graph_inputs     hash    graph -> what it takes as input, JSON
-- KEYS[5] rq:worker:<worker>     hash    RQ's worker, read by its tools
-- KEYS[6] rq:suspended           string  set while `rq suspend` holds
-- KEYS from the 7th on: agent:serving:<queue>, of each of its queues, zsets  graphs that a live worker serves -> until
--   when (ms)
-- ARGV[1] worker
-- ARGV[2] lease (ms)
-- ARGV[3] 1 to join, 0 to renew
-- ARGV[4] graphs that the worker serves: JSON object graph -> what it takes, JSON as a string
-- ARGV[5] now as RQ writes it, for its tools only
-- ARGV[6] the graphs as in the names of queues, ",a,b,"
-- ARGV[7] the models whose calls it guards, JSON as in shared/announcements/guarded_models.py; for the doctor only
-- ARGV[8] now (ms) in tests, else empty
-- Returns {0} when the lease is lost, else {1, own ids, those of them that are to be cancelled, those of its side queues
--   that hold tasks, lease end before (ms, empty for none), lease end (ms)}
local workers_key, own_key, graphs_key, inputs_key, rq_worker_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local suspended_key = KEYS[6]
local MOST_KEPT = 100
local worker, lease_ms, joining, graphs, now_iso = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4], ARGV[5]
local names, models, now_ms = ARGV[6], ARGV[7], clock(ARGV[8])

local lease_end_before = redis.call('ZSCORE', workers_key, worker)
if not joining and not lease_end_before then
  return {0}
end

local lease_end = whole(now_ms + lease_ms)
redis.call('ZADD', workers_key, lease_end, worker)
for graph, input in pairs(cjson.decode(graphs)) do
  redis.call('ZADD', graphs_key, 'GT', lease_end, graph)
  -- That of the worker that joined last. A renewal writes it again only where it was lost.
  redis.call(joining and 'HSET' or 'HSETNX', inputs_key, graph, input)
end
-- Forgetting only: what a graph's last worker announced is gone a day after it.
local forgotten = whole(now_ms - 86400000)
redis.call('ZREMRANGEBYSCORE', graphs_key, '-inf', forgotten)
redis.call('EXPIRE', graphs_key, 86400)
redis.call('EXPIRE', inputs_key, 86400)
local sides = {}
for i = 7, #KEYS do
  local serving_key = KEYS[i]
  redis.call('ZADD', serving_key, 'GT', lease_end, names)
  redis.call('ZREMRANGEBYSCORE', serving_key, '-inf', forgotten)
  redis.call('EXPIRE', serving_key, 86400)
  local queue = serving_key:sub(#'agent:serving:' + 1)
  for graph in names:gmatch('[^,]+') do
    local side = queue .. ':' .. graph
    if redis.call('EXISTS', 'rq:queue:' .. side) == 1 then
      sides[#sides + 1] = side
    end
  end
end
if redis.call('EXISTS', rq_worker_key) == 1 then
  local state = redis.call('SCARD', own_key) > 0 and 'busy' or 'idle'
  if state == 'idle' and redis.call('EXISTS', suspended_key) == 1 then
    state = 'suspended'
  end
  redis.call('HSET', rq_worker_key, 'last_heartbeat', now_iso, 'state', state, 'graphs', names, 'models', models)
  redis.call('PEXPIRE', rq_worker_key, lease_ms * 10)
end

local own, cancelled = {}, {}
for _, id in ipairs(redis.call('SMEMBERS', own_key)) do
  local task = redis.call('HMGET', 'agent:task:' .. id, 'state', 'owner', 'cancel', 'epoch')
  if task[1] ~= 'running' or task[2] ~= worker then
    redis.call('SREM', own_key, id)
  else
    own[#own + 1] = id
    show_execution(id, task[4] or '', worker, now_ms)
    cancelled[#cancelled + 1] = task[3] and id or nil
  end
end
-- Threads whose own TTL may be over before the sweep comes to a run that was accepted: only workers may prolong checkpoints.
for _, thread in ipairs(redis.pcall('SPOP', TO_KEEP, MOST_KEPT)) do
  if is_busy(thread) then
    keep_open_thread(thread, tenant_of(thread), now_ms)
  end
end
return {1, own, cancelled, sides, lease_end_before or '', lease_end}
