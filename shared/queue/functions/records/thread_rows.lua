-- What is listed of threads, for LangGraph's API: when they were used, by which graph, and their runs. Only tasks that
-- name a thread are listed. A key of another type lists nothing, and keeps no task from running.
--
-- Uses shared/connections/clock: whole
-- Uses shared/queue/functions/records/thread_runs: RUNS, add_run, read_run, remove_run
--
-- agent:thread_row:<thread>   hash  created, updated, changed: when it was made, used, and its state changed (ms); graph,
--                                   run: of the newest run; ended: the state in which a run ended last; metadata: JSON;
--                                   terms: those of the metadata (shared/threads/terms.py), one in a line
-- agent:thread_late:<thread>  zset  id -> when the task is to start (ms), of open ones that enter the thread then
-- agent:threads:<tenant>      zset  thread -> when it was used (ms)
-- agent:threads_by:<tenant>:<term>  set  threads that are listed under the term, and some that were
-- agent:threads_to_keep       set   threads with a TTL of their own of which a run was accepted; a minute
-- agent:wake:thread:<thread>  stream  an entry for each run that is accepted, while the thread's stream has readers, who make
--                                   it; a minute
-- All live for a week after the last use, as the thread's runs do (thread_runs.lua), or as long as the row's field ttl says
-- (ms), once no task of the thread is open.
local ROW, LATE, THREADS = 'agent:thread_row:', 'agent:thread_late:', 'agent:threads:'
local BY_TERM, GRAPH_TERM, WAKE = 'agent:threads_by:', 'graph:', 'agent:wake:thread:'
local TO_KEEP, TO_KEEP_MS = 'agent:threads_to_keep', 60000
local STATE, INDEX = 'agent:thread_state:', 'agent:thread_index:' -- its checkpoints, if they are in this Redis
-- Terms are kept for longer than threads: they are not touched when a run ends. Tasks that are late are listed for so long
-- after their time, should no worker live then, and so many are looked at: others are left there only if another program
-- has deleted their hashes.
local ROW_MS, TERM_MS, LATE_MS, LOOKED_AT = 604800000, 864000000, 691200000, 50
-- A thread's life is not prolonged when a run ends that was accepted so short a time (ms) before.
local SOON_MS = 3600000
-- How long (ms) a thread with an open task is kept at least, after each sweep.
local OPEN_MS = 3600000
-- Threads of a term that are looked at with each one that is added: of those that are listed no more, a few at a time go.
local LOOKED_AT_EACH, FORGOTTEN_EACH = 2, 100

-- List a task that enters the thread later.
local function list_late(id, thread, at_ms, now_ms)
  redis.pcall('ZADD', LATE .. thread, whole(at_ms), id)
  local keep_ms = whole(at_ms - now_ms + LATE_MS)
  if redis.pcall('PEXPIRE', LATE .. thread, keep_ms, 'GT') ~= 1 then
    redis.pcall('PEXPIRE', LATE .. thread, keep_ms, 'NX')
  end
end

-- Take a task off those that enter a thread later, if it is one.
local function leave_late(id, thread)
  if thread then
    redis.pcall('ZREM', LATE .. thread, id)
  end
end

-- Whether a task of the thread has not ended: it runs, waits, or is to start at its time.
local function is_busy(thread)
  if redis.call('EXISTS', 'agent:thread:' .. thread) == 1 then
    return true
  end
  for _, id in ipairs(redis.pcall('ZRANGE', LATE .. thread, 0, LOOKED_AT - 1)) do
    if redis.pcall('HGET', 'agent:task:' .. id, 'state') == 'pending' then
      return true
    end
  end
  return false
end

-- How long a thread is kept from now on, if its maker has said so (`ttl`, a field of its row) and no task of it is open;
-- else nothing.
local function own_ttl_ms(thread, ttl)
  ttl = type(ttl) == 'string' and tonumber(ttl)
  return ttl and not is_busy(thread) and whole(ttl) or nil
end

-- Let the checkpoints of a thread go with its row, given its own TTL, if it has one. Only for scripts that workers call.
local function expire_state(thread, ttl_ms)
  if ttl_ms then
    redis.pcall('PEXPIRE', STATE .. thread, ttl_ms)
    redis.pcall('PEXPIRE', INDEX .. thread, ttl_ms)
  end
end

-- Let a thread of which a task is open outlive it: a task may wait for longer than its thread is kept. For the sweep, which
-- comes to each open task within a minute, and renewals; the end of the task says how long the thread is kept from then on.
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
  for _, key in ipairs({STATE, INDEX, ROW, RUNS}) do
    redis.pcall('PEXPIRE', key .. thread, OPEN_MS, 'GT')
  end
  redis.pcall('ZADD', THREADS .. tenant, 'XX', 'GT', whole(now_ms - ROW_MS + OPEN_MS), thread) -- it stays listed
end

-- Let the checkpoints of a thread go after `ttl_ms`, or a 64th later, if they were prolonged beyond that while a task was
-- open, and none is any more; 0: as they are. Only for scripts that workers call.
local function shorten_state(thread, ttl_ms)
  local left_ms = ttl_ms > 0 and redis.pcall('PTTL', STATE .. thread)
  if type(left_ms) == 'number' and left_ms > ttl_ms * 65 / 64 and not is_busy(thread) then
    expire_state(thread, whole(ttl_ms))
  end
end

-- Keep what is listed of a thread from now on; `ttl_ms` is its own TTL, if that counts.
local function keep_row(thread, ttl_ms)
  redis.pcall('PEXPIRE', ROW .. thread, ttl_ms or ROW_MS)
  redis.pcall('PEXPIRE', RUNS .. thread, ttl_ms or ROW_MS)
end

-- Note in the index that a thread was used, and with `keeps` keep the index from now on. Returns whether it was not listed.
local function list_use(thread, tenant, keeps, now_ms)
  local index_key = THREADS .. tenant
  local is_new = redis.pcall('ZADD', index_key, whole(now_ms), thread) == 1
  if is_new then
    local over = redis.pcall('ZRANGE', index_key, '-inf', whole(now_ms - ROW_MS), 'BYSCORE', 'LIMIT', 0, FORGOTTEN_EACH)
    if #over > 0 then
      redis.pcall('ZREM', index_key, unpack(over))
    end
  end
  if is_new or keeps then
    redis.pcall('PEXPIRE', index_key, ROW_MS)
  end
  return is_new
end

-- Note that a thread was used; `ttl` is a field of its row. Returns its own TTL, as `own_ttl_ms` does.
local function touch_row(thread, tenant, ttl, now_ms)
  local ttl_ms = own_ttl_ms(thread, ttl)
  keep_row(thread, ttl_ms)
  list_use(thread, tenant, true, now_ms)
  return ttl_ms
end

-- List a thread under a term, and look whether others are still listed at all.
local function list_thread_under(thread, tenant, term)
  local key = BY_TERM .. tenant .. ':' .. term
  local is_new = redis.pcall('SADD', key, thread) == 1
  redis.pcall('PEXPIRE', key, TERM_MS)
  local others = is_new and redis.pcall('SRANDMEMBER', key, LOOKED_AT_EACH) or {}
  local used = #others > 0 and redis.pcall('ZMSCORE', THREADS .. tenant, unpack(others)) or {}
  for i, other in ipairs(others) do
    if used[i] == false then
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

-- List a run that was accepted, with what its client said about it.
local function list_run(id, thread, tenant, graph, about, now_ms)
  local row_key, now = ROW .. thread, whole(now_ms)
  local created, graph_before, terms, ttl = unpack(redis.pcall('HMGET', row_key, 'created', 'graph', 'terms', 'ttl'))
  if graph_before and graph_before ~= graph then
    redis.pcall('SREM', BY_TERM .. tenant .. ':' .. GRAPH_TERM .. graph_before, thread)
  end
  redis.pcall('HSET', row_key, 'updated', now, 'graph', graph, 'run', id, unpack(created and {} or {'created', now}))
  add_run(thread, id, about)
  keep_row(thread)
  list_use(thread, tenant, true, now_ms)
  list_again(thread, tenant, graph, terms)
  if ttl then
    redis.pcall('SADD', TO_KEEP, thread)
    redis.pcall('PEXPIRE', TO_KEEP, TO_KEEP_MS)
  end
  redis.pcall('XADD', WAKE .. thread, 'NOMKSTREAM', 'MAXLEN', 1, '*', '', '')
end

-- Note how a run ended that was accepted at an instant, if it is one of a run, unless its thread was deleted meanwhile.
-- Returns the thread's own TTL, as `own_ttl_ms` does.
local function list_end(thread, tenant, state, accepted_ms, now_ms)
  local row_key, now = ROW .. thread, whole(now_ms)
  local created, ttl = unpack(redis.pcall('HMGET', row_key, 'created', 'ttl'))
  if not created then
    return
  end
  redis.pcall('HSET', row_key, 'updated', now, 'changed', now, 'ended', state)
  if ttl or not accepted_ms or now_ms - accepted_ms > SOON_MS then
    return touch_row(thread, tenant, ttl, now_ms)
  end
  list_use(thread, tenant, false, now_ms)
end

-- Note that a run ended before it began: it has not changed its thread, for which its own TTL holds again.
local function list_unbegun(thread, tenant, now_ms)
  local created, ttl = unpack(redis.pcall('HMGET', ROW .. thread, 'created', 'ttl'))
  if created then
    touch_row(thread, tenant, ttl, now_ms)
  end
end

-- The graph of a run of a thread, as workers announce it; nothing if nothing is known of the run.
local function graph_of_run(id, thread)
  local graph = redis.pcall('HGET', 'agent:task:' .. id, 'graph')
  if type(graph) ~= 'string' then
    local is_read, line = pcall(cjson.decode, (read_run(thread, id)) or '')
    graph = is_read and type(line) == 'table' and line[2]
  end
  return type(graph) == 'string' and (graph:gsub('%%(%x%x)', function(code)
    return string.char(tonumber(code, 16))
  end)) or nil
end

-- List a run that was rolled back no more: its thread shows what it showed before, unless it was deleted meanwhile.
-- Returns the thread's own TTL, as `own_ttl_ms` does.
local function unlist_run(id, thread, tenant, now_ms)
  remove_run(thread, id)
  local created, newest, graph, terms, ttl =
    unpack(redis.pcall('HMGET', ROW .. thread, 'created', 'run', 'graph', 'terms', 'ttl'))
  if not created then
    return
  end
  redis.pcall('HSET', ROW .. thread, 'updated', whole(now_ms))
  local ttl_ms = touch_row(thread, tenant, ttl, now_ms)
  if newest ~= id then
    return ttl_ms
  end
  local before = redis.pcall('LINDEX', RUNS .. thread, 0)
  if type(before) ~= 'string' then
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
