-- What is listed of threads, for LangGraph's API: when they were used, by which graph, and their runs. Only tasks that
-- name a thread are listed. A key of another type lists nothing, and keeps no task from running.
--
-- Uses shared/connections/clock: whole
--
-- agent:thread_row:<thread>   hash  created, updated, changed: when it was made, used, and its state changed (ms); graph,
--                                   run: of the newest run; ended: the state in which a run ended last; metadata: JSON
-- agent:thread_runs:<thread>  zset  id -> when the run was accepted (ms), of the newest 1,000
-- agent:threads:<tenant>      zset  thread -> when it was used (ms)
-- All live for a week after the last use.
local ROW, RUNS, THREADS = 'agent:thread_row:', 'agent:thread_runs:', 'agent:threads:'
local ROW_MS, MOST_RUNS = 604800000, 1000

local function touch_row(thread, tenant, now_ms)
  local index_key = THREADS .. tenant
  redis.pcall('PEXPIRE', ROW .. thread, ROW_MS)
  redis.pcall('PEXPIRE', RUNS .. thread, ROW_MS)
  redis.pcall('ZADD', index_key, whole(now_ms), thread)
  redis.pcall('ZREMRANGEBYSCORE', index_key, '-inf', whole(now_ms - ROW_MS))
  redis.pcall('PEXPIRE', index_key, ROW_MS)
end

-- List a run that was accepted.
local function list_run(id, thread, tenant, graph, now_ms)
  local now = whole(now_ms)
  redis.pcall('HSETNX', ROW .. thread, 'created', now)
  redis.pcall('HSET', ROW .. thread, 'updated', now, 'graph', graph, 'run', id)
  redis.pcall('ZADD', RUNS .. thread, now, id)
  redis.pcall('ZREMRANGEBYRANK', RUNS .. thread, 0, -MOST_RUNS - 1)
  touch_row(thread, tenant, now_ms)
end

-- Note how a run ended, unless its thread was deleted meanwhile.
local function list_end(thread, tenant, state, now_ms)
  if redis.pcall('HEXISTS', ROW .. thread, 'created') == 1 then
    redis.pcall('HSET', ROW .. thread, 'updated', whole(now_ms), 'changed', whole(now_ms), 'ended', state)
    touch_row(thread, tenant, now_ms)
  end
end

-- Whether a task of the thread has not ended: it runs, waits, or is to start at its time.
local function is_busy(thread)
  if redis.call('EXISTS', 'agent:thread:' .. thread) == 1 then
    return true
  end
  local newest = redis.pcall('HGET', ROW .. thread, 'run')
  local state = type(newest) == 'string' and redis.pcall('HGET', 'agent:task:' .. newest, 'state')
  return state == 'pending' or state == 'running'
end
