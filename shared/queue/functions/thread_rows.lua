-- What is listed of threads, for LangGraph's API: when they were used, by which graph, and their runs. Only tasks that
-- name a thread are listed. A key of another type lists nothing, and keeps no task from running.
--
-- Uses shared/connections/clock: whole
--
-- agent:thread_row:<thread>   hash  created, updated, changed: when it was made, used, and its state changed (ms); graph,
--                                   run: of the newest run; ended: the state in which a run ended last; metadata: JSON;
--                                   terms: those of the metadata (shared/threads/terms.py), one in a line
-- agent:thread_runs:<thread>  zset  id -> when the run was accepted (ms), of the newest 1,000
-- agent:threads:<tenant>      zset  thread -> when it was used (ms)
-- agent:threads_by:<tenant>:<term>  set  threads that are listed under the term, and some that were
-- agent:wake:thread:<thread>  stream  an entry for each run that is accepted, while the thread's stream has readers, who make
--                                   it; a minute
-- All live for a week after the last use, as the records of its runs do (records.lua), or as long as the row's field ttl
-- says (ms), once no task of the thread is open.
local ROW, RUNS, THREADS = 'agent:thread_row:', 'agent:thread_runs:', 'agent:threads:'
local RECORDS, BY_TERM, GRAPH_TERM = 'agent:thread_records:', 'agent:threads_by:', 'graph:'
local WAKE = 'agent:wake:thread:'
local STATE, INDEX = 'agent:thread_state:', 'agent:thread_index:' -- its checkpoints, if they are in this Redis
-- Terms are kept for longer than threads: they are not touched when a run ends.
local ROW_MS, MOST_RUNS, TERM_MS, LOOKED_AT = 604800000, 1000, 864000000, 50
-- How long a thread with an open task is kept at least, after each sweep.
local OPEN_MS = 3600000
-- Threads of a term that are looked at with each one that is added: of those that are listed no more, a few at a time go.
local LOOKED_AT_EACH, FORGOTTEN_EACH = 2, 100

-- Whether a task of the thread has not ended: it runs, waits, or is to start at its time. Of those that are listed the
-- newest 50 are looked at: one that is to start later may have been followed by others that have ended.
local function is_busy(thread)
  if redis.call('EXISTS', 'agent:thread:' .. thread) == 1 then
    return true
  end
  local runs = redis.pcall('ZREVRANGE', RUNS .. thread, 0, LOOKED_AT - 1)
  for _, id in ipairs(runs) do
    local state = redis.pcall('HGET', 'agent:task:' .. id, 'state')
    if state == 'pending' or state == 'running' then
      return true
    end
  end
  return false
end

-- How long a thread is kept from now on, if its maker has said so and no task of it is open; else nothing.
local function own_ttl_ms(thread)
  local ttl_ms = redis.pcall('HGET', ROW .. thread, 'ttl')
  ttl_ms = type(ttl_ms) == 'string' and tonumber(ttl_ms)
  return ttl_ms and not is_busy(thread) and whole(ttl_ms) or nil
end

-- Let the checkpoints of a thread go with its row, given its own TTL, if it has one. Only for scripts that workers call.
local function expire_state(thread, ttl_ms)
  if ttl_ms then
    redis.pcall('PEXPIRE', STATE .. thread, ttl_ms)
    redis.pcall('PEXPIRE', INDEX .. thread, ttl_ms)
  end
end

-- Let a thread of which a task is open outlive it: a task may wait for longer than its thread is kept. For the sweep, which
-- comes to each open task within a minute; the end of the task says how long the thread is kept from then on.
local function keep_open_thread(thread, tenant, now_ms)
  local soonest_ms
  for _, key in ipairs({STATE .. thread, ROW .. thread}) do
    local left_ms = redis.pcall('PTTL', key)
    if type(left_ms) == 'number' and left_ms > 0 then
      soonest_ms = math.min(soonest_ms or left_ms, left_ms)
    end
  end
  if not soonest_ms or soonest_ms > OPEN_MS / 2 then
    return
  end
  for _, key in ipairs({STATE, INDEX, ROW, RUNS, RECORDS}) do
    redis.pcall('PEXPIRE', key .. thread, OPEN_MS, 'GT')
  end
  redis.pcall('ZADD', THREADS .. tenant, 'XX', 'GT', whole(now_ms - ROW_MS + OPEN_MS), thread) -- it stays listed
end

-- Note that a thread was used. Returns its own TTL, as `own_ttl_ms` does.
local function touch_row(thread, tenant, now_ms)
  local index_key = THREADS .. tenant
  local ttl_ms = own_ttl_ms(thread)
  local row_ms = ttl_ms or ROW_MS
  redis.pcall('PEXPIRE', ROW .. thread, row_ms)
  redis.pcall('PEXPIRE', RUNS .. thread, row_ms)
  redis.pcall('PEXPIRE', RECORDS .. thread, row_ms)
  redis.pcall('ZADD', index_key, whole(now_ms), thread)
  local over = redis.pcall('ZRANGE', index_key, '-inf', whole(now_ms - ROW_MS), 'BYSCORE', 'LIMIT', 0, FORGOTTEN_EACH)
  if #over > 0 then
    redis.pcall('ZREM', index_key, unpack(over))
  end
  redis.pcall('PEXPIRE', index_key, ROW_MS)
  return ttl_ms
end

-- List a thread under a term, and look whether others are still listed at all.
local function list_thread_under(thread, tenant, term)
  local key = BY_TERM .. tenant .. ':' .. term
  local is_new = redis.pcall('SADD', key, thread) == 1
  redis.pcall('PEXPIRE', key, TERM_MS)
  for _, other in ipairs(is_new and redis.pcall('SRANDMEMBER', key, LOOKED_AT_EACH) or {}) do
    if not redis.pcall('ZSCORE', THREADS .. tenant, other) then
      redis.pcall('SREM', key, other)
    end
  end
end

-- List a thread under its graph and the terms that it has, either may be missing: they live on with it.
local function list_again(thread, tenant, graph, terms)
  if graph then
    list_thread_under(thread, tenant, GRAPH_TERM .. graph)
  end
  for term in (terms or ''):gmatch('[^\n]+') do
    list_thread_under(thread, tenant, term)
  end
end

-- List a thread under the terms of its metadata, one in a line, and no more under others.
local function list_thread(thread, tenant, terms)
  local graph, before = unpack(redis.pcall('HMGET', ROW .. thread, 'graph', 'terms'))
  for term in (before or ''):gmatch('[^\n]+') do
    redis.pcall('SREM', BY_TERM .. tenant .. ':' .. term, thread)
  end
  redis.pcall('HSET', ROW .. thread, 'terms', terms)
  list_again(thread, tenant, graph, terms)
end

-- List a run that was accepted.
local function list_run(id, thread, tenant, graph, now_ms)
  local now = whole(now_ms)
  local graph_before, terms = unpack(redis.pcall('HMGET', ROW .. thread, 'graph', 'terms'))
  if graph_before and graph_before ~= graph then
    redis.pcall('SREM', BY_TERM .. tenant .. ':' .. GRAPH_TERM .. graph_before, thread)
  end
  redis.pcall('HSETNX', ROW .. thread, 'created', now)
  redis.pcall('HSET', ROW .. thread, 'updated', now, 'graph', graph, 'run', id)
  redis.pcall('ZADD', RUNS .. thread, now, id)
  if redis.pcall('ZCARD', RUNS .. thread) > MOST_RUNS then
    redis.pcall('HDEL', RECORDS .. thread, redis.pcall('ZPOPMIN', RUNS .. thread)[1] or '')
  end
  touch_row(thread, tenant, now_ms)
  list_again(thread, tenant, graph, terms)
  redis.pcall('XADD', WAKE .. thread, 'NOMKSTREAM', 'MAXLEN', 1, '*', '', '')
end

-- Note how a run ended, unless its thread was deleted meanwhile. Returns the thread's own TTL, as `own_ttl_ms` does.
local function list_end(thread, tenant, state, now_ms)
  if redis.pcall('HEXISTS', ROW .. thread, 'created') == 1 then
    redis.pcall('HSET', ROW .. thread, 'updated', whole(now_ms), 'changed', whole(now_ms), 'ended', state)
    return touch_row(thread, tenant, now_ms)
  end
end

-- The graph of a run of a thread, as workers announce it; nothing if nothing is known of the run.
local function graph_of_run(id, thread)
  local graph = redis.pcall('HGET', 'agent:task:' .. id, 'graph')
  if type(graph) ~= 'string' then
    local record = redis.pcall('HGET', RECORDS .. thread, id)
    local is_read, line = pcall(cjson.decode, type(record) == 'string' and record:match('^[^\n]*') or '')
    graph = is_read and type(line) == 'table' and line[2]
  end
  return type(graph) == 'string' and (graph:gsub('%%(%x%x)', function(code)
    return string.char(tonumber(code, 16))
  end)) or nil
end

-- List a run that was rolled back no more: its thread shows what it showed before, unless it was deleted meanwhile.
-- Returns the thread's own TTL, as `own_ttl_ms` does.
local function unlist_run(id, thread, tenant, now_ms)
  redis.pcall('ZREM', RUNS .. thread, id)
  local created, newest, graph, terms = unpack(redis.pcall('HMGET', ROW .. thread, 'created', 'run', 'graph', 'terms'))
  if not created then
    return
  end
  redis.pcall('HSET', ROW .. thread, 'updated', whole(now_ms))
  local ttl_ms = touch_row(thread, tenant, now_ms)
  if newest ~= id then
    return ttl_ms
  end
  local before = redis.pcall('ZRANGE', RUNS .. thread, -1, -1)[1]
  if not before then
    redis.pcall('HDEL', ROW .. thread, 'run')
    return ttl_ms
  end
  local graph_before = graph_of_run(before, thread)
  redis.pcall('HSET', ROW .. thread, 'run', before)
  if graph_before and graph_before ~= graph then
    redis.pcall('SREM', BY_TERM .. tenant .. ':' .. GRAPH_TERM .. (graph or ''), thread)
    redis.pcall('HSET', ROW .. thread, 'graph', graph_before)
    list_again(thread, tenant, graph_before, terms)
  end
  return ttl_ms
end
