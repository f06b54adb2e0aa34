#!lua flags=no-writes
-- Read the workers, the queues and how many tasks there are, without changing anything.
--
-- Uses shared/connections/clock: clock
--
-- KEYS[1] agent:workers   zset  worker -> lease end (ms)
-- KEYS[2] rq:queues       set   keys of the queues' lists
-- KEYS[3] agent:open      zset  id -> deadline (ms), tasks that are not terminal
-- KEYS[4] agent:delayed   zset  id -> when it is due (ms)
-- ARGV[1] now (ms) in tests, else empty
-- Returns {now (ms), open tasks, delayed tasks, workers, queues}; of the workers also those whose lease is over
--   worker: {name, lease end (ms), tasks that it owns, RQ's state, its queues, tasks that succeeded, that failed,
--     its graphs, ",a,b,", the models whose calls it guards, JSON, where it keeps threads, JSON}
--   queue: {key, ids in its list and users in the lines of at most TENANTS of its tenants, when the first id was submitted (ms) or nil}
local workers_key, queues_key, open_key, delayed_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now_ms = clock(ARGV[1])
local TENANTS = 500

local workers = {}
local leases = redis.call('ZRANGE', workers_key, 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do
  local name, lease_end = leases[i], leases[i + 1]
  local fields = redis.call('HMGET', 'rq:worker:' .. name, 'state', 'queues', 'successful_job_count', 'failed_job_count',
    'graphs', 'models', 'state_kept')
  workers[#workers + 1] = {name, lease_end, redis.call('SCARD', 'agent:own:' .. name), unpack(fields)}
end
local queues = {}
for _, queue_key in ipairs(redis.call('SMEMBERS', queues_key)) do
  local first = redis.call('LINDEX', queue_key, 0)
  local created = first and redis.call('HGET', 'agent:task:' .. first, 'created')
  local queue, lined_up = queue_key:sub(#'rq:queue:' + 1), 0
  for _, tenant in ipairs(redis.call('HRANDFIELD', 'agent:tenant_turns:' .. queue, TENANTS)) do
    lined_up = lined_up + redis.call('ZCARD', 'agent:tenant_line:' .. queue .. ':' .. tenant)
  end
  queues[#queues + 1] = {queue_key, redis.call('LLEN', queue_key) + lined_up, created}
end
return {now_ms, redis.call('ZCARD', open_key), redis.call('ZCARD', delayed_key), workers, queues}
