-- RQ's view of a task: the status in its job's hash, and the registry that lists it.
--
-- RQ's clients write there too. A requeue of an ended job, or an `enqueue` under an id that is known, sets the status to
-- `queued` and pushes the id; the script that drops the id from the list puts back what the task's hash says. An enqueue
-- also writes its own task to the field `data`, so that ours stand in the field `task`.
--
-- Uses shared/connections/clock: natural, whole
-- Uses shared/queue/functions/emptied: DEFERRED, LISTED, UNLISTED
--
-- rq:wip:<queue>             zset  <id>:<epoch> of running tasks, as RQ's registry of started jobs has them
-- rq:executions:<id>         zset  epoch of the attempt that runs, from the first renewal of its worker's lease on
-- rq:execution:<id>:<epoch>  hash  id, job_id, worker_name, created_at and last_heartbeat (s); likewise
-- rq:job::<id>:dependencies, rq:job:<id>:dependents  set  ids of jobs of RQ's clients that wait for others, until we refuse them
-- rq:scheduled:<queue>  zset  id -> when it is to be queued (s), of jobs that RQ's clients enqueued for later
-- rq:finished:<queue>, rq:failed:<queue>, rq:canceled:<queue>   zset   id -> when to forget it (s)
local STATUS = {success = 'finished', interrupted = 'finished', error = 'failed', timeout = 'failed',
  cancelled = 'canceled', running = 'started'}
local RESULT_TYPE = {finished = 1, failed = 2, canceled = 3}
-- Entries of a registry that one script forgets at most.
local FORGOTTEN = 100
-- Jobs that one of stock RQ waits for, which are looked at.
local DEPENDENCIES = 100
-- Longest description that is kept (bytes).
local LONGEST = 1000
-- How long a job is shown whose result is over (ms).
local BRIEFLY = 300000
-- How much longer than its last job (ms) a registry is kept at most.
local LONGER = 60000
-- A score that no cleanup of RQ reaches.
local FAR = '4102444800'
-- How long executions are kept that nothing ends (ms).
local EXECUTION_MS = 86400000
-- The end of a result document that has its times: after them only a signature follows.
local TIMES_BYTES = 400

-- The task in a job's hash. RQ's clients write `data`, and only there does a job have it that was not read yet.
-- Returns how long it is (bytes), and the field.
local function task_bytes(job_key)
  local bytes = redis.call('HSTRLEN', job_key, 'task')
  if bytes > 0 then
    return bytes, 'task'
  end
  return redis.call('HSTRLEN', job_key, 'data'), 'data'
end

-- Some jobs whose time in a registry is over.
local function ended_before(registry_key, now_ms)
  return redis.pcall('ZRANGE', registry_key, '-inf', math.floor(now_ms / 1000), 'BYSCORE', 'LIMIT', 0, FORGOTTEN)
end

-- Take cancelled jobs off their registry whose time there is over. One that RQ cancelled before a worker read it has no
-- other time to live. Only for scripts that workers call: jobs are of all tenants.
local function forget_cancelled(queue, now_ms)
  local registry_key = 'rq:canceled:' .. queue
  for _, id in ipairs(ended_before(registry_key, now_ms)) do
    redis.pcall('ZREM', registry_key, id)
    local job_key = 'rq:job:' .. id
    if redis.call('PTTL', job_key) == -1 and redis.pcall('HGET', job_key, 'status') == 'canceled'
        and redis.call('EXISTS', 'agent:task:' .. id) == 0 then
      redis.call('PEXPIRE', job_key, BRIEFLY)
    end
  end
end

-- List an ended job in the registry of its status, and take others off whose time there is over, unless they were cancelled.
local function list_ended(id, queue, status, keep_ms, now_ms)
  local registry_key = 'rq:' .. status .. ':' .. queue
  local over = status ~= 'canceled' and ended_before(registry_key, now_ms) or {}
  if #over > 0 then
    redis.pcall('ZREM', registry_key, unpack(over))
  end
  redis.pcall('ZADD', registry_key, math.floor((now_ms + keep_ms) / 1000), id)
  local left_ms = redis.pcall('PTTL', registry_key)
  if type(left_ms) == 'number' and left_ms < keep_ms then
    redis.pcall('PEXPIRE', registry_key, whole(keep_ms + LONGER)) -- not anew with each job
  end
end

-- Describe a job whose description is none of its client's own: RQ's shows the input.
local function describe(job_key, description)
  local length = redis.call('HSTRLEN', job_key, 'description')
  local own = length > 0 and length <= LONGEST and redis.call('HGET', job_key, 'description')
  if not own or own:find('run_task(', 1, true) then
    redis.call('HSET', job_key, 'description', description)
  end
end

-- A graph's name, as it stands in the names of queues.
local function name_of(graph)
  return (graph:gsub('%%(%x%x)', function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

-- The times of an ended task as its result document has them, which RQ writes alike.
local function show_times(id, job_key)
  local document = redis.call('GETRANGE', 'agent:result:' .. id, -TIMES_BYTES, -1)
  for field in ('submitted_at started_at ended_at'):gmatch('%S+') do
    local time = document:match('.*"' .. field .. '":"([%d%-T:.]+Z)"')
    if time then
      redis.call('HSET', job_key, field == 'submitted_at' and 'created_at' or field, time)
    end
  end
end

-- Write RQ's one result of a job: the failure text (base64 of zlib) and the result document (base64), either may be empty.
local function write_result(results_key, status, document, failure, worker, keep_ms)
  redis.call('DEL', results_key)
  if document == '' and failure == '' then
    return
  end
  local fields = {'type', RESULT_TYPE[status], 'worker_name', worker}
  if failure ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'exc_string', failure
  end
  if document ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'return_value', document
  end
  redis.call('XADD', results_key, '*', unpack(fields))
  redis.call('PEXPIRE', results_key, whole(keep_ms))
end

-- Put back a job's status and registry, which RQ's clients may have changed.
local function show_again(id, now_ms)
  local job_key = 'rq:job:' .. id
  local task = redis.call('HMGET', 'agent:task:' .. id, 'state', 'place', 'queue', 'owner', 'graph', 'created', 'deadline')
  local state, place, queue, owner, graph, created, deadline = unpack(task)
  if not state or not queue or redis.call('EXISTS', job_key) == 0 then
    return
  end
  local waits = not STATUS[state] and (place ~= 'queue' or redis.pcall('ZSCORE', DEFERRED .. queue, id))
  local status = STATUS[state] or (waits and 'deferred' or 'queued')
  redis.call('HSET', job_key, 'status', status, 'origin', queue, 'worker_name', owner or '', 'timeout',
    math.ceil((natural(deadline, 0) - natural(created, 0)) / 1000))
  describe(job_key, name_of(graph or '') .. ' ' .. id:gsub('^.-%-%-', ''))
  if waits and place ~= 'queue' then
    redis.pcall('ZADD', DEFERRED .. queue, 'NX', UNLISTED, id)
  end
  if state == 'pending' or state == 'running' then
    redis.pcall('PERSIST', job_key) -- it has none before its end, nor has the task's hash
    return
  end
  local keep_ms = math.max(redis.call('PTTL', 'agent:result:' .. id), BRIEFLY)
  show_times(id, job_key)
  list_ended(id, queue, status, keep_ms, now_ms)
  redis.call('PEXPIRE', job_key, whole(keep_ms))
end

-- Queue up to `most` jobs of stock RQ whose time has come, as its scheduler would. Returns their ids, and ms until the next
-- one, or nil.
local function queue_scheduled(scheduled_key, most, now_ms, now_iso)
  local queue_key = 'rq:queue:' .. scheduled_key:sub(#'rq:scheduled:' + 1)
  local ids = redis.call('ZRANGE', scheduled_key, '-inf', math.floor(now_ms / 1000), 'BYSCORE', 'LIMIT', 0, most)
  for _, id in ipairs(ids) do
    local job_key = 'rq:job:' .. id
    redis.call('ZREM', scheduled_key, id)
    if redis.call('EXISTS', job_key) == 1 then
      local is_first = redis.call('HGET', job_key, 'enqueue_at_front') == '1'
      redis.call('HSET', job_key, 'status', 'queued', 'enqueued_at', now_iso)
      redis.call(is_first and 'LPUSH' or 'RPUSH', queue_key, id)
    end
  end
  local first = tonumber(redis.call('ZRANGE', scheduled_key, 0, 0, 'WITHSCORES')[2])
  return ids, first and math.max(0, first * 1000 - now_ms)
end

-- Queue up to `most` jobs of stock RQ that wait for other jobs, which nothing here would: workers refuse them. Returns their
-- ids.
local function queue_dependents(queue, most)
  local registry_key, ids = DEFERRED .. queue, {}
  for _, range in ipairs({{'-inf', '(' .. LISTED}, {'(' .. UNLISTED, '+inf'}}) do
    for _, id in ipairs(redis.pcall('ZRANGE', registry_key, range[1], range[2], 'BYSCORE', 'LIMIT', 0, most - #ids)) do
      redis.call('ZREM', registry_key, id)
      local job_key, dependencies_key = 'rq:job:' .. id, 'rq:job::' .. id .. ':dependencies'
      for _, other in ipairs(redis.pcall('SPOP', dependencies_key, DEPENDENCIES)) do
        redis.pcall('SREM', 'rq:job:' .. other .. ':dependents', id)
      end
      redis.call('UNLINK', dependencies_key)
      if redis.pcall('HGET', job_key, 'status') == 'deferred' and redis.call('EXISTS', 'agent:task:' .. id) == 0 then
        redis.call('HSET', job_key, 'status', 'queued')
        redis.call('RPUSH', 'rq:queue:' .. queue, id)
        ids[#ids + 1] = id
      end
    end
  end
  return ids
end

-- Show the attempt that runs as RQ's execution of the job. Renewals do, not claims: most attempts are shorter than anybody
-- can look at.
local function show_execution(id, epoch, worker, now_ms)
  local executions_key, key = 'rq:executions:' .. id, 'rq:execution:' .. id .. ':' .. epoch
  local now_s = string.format('%.3f', now_ms / 1000)
  if redis.call('EXISTS', executions_key, key) == 2 then
    redis.pcall('HSET', key, 'last_heartbeat', now_s)
    return
  end
  redis.pcall('ZADD', executions_key, FAR, epoch)
  redis.call('PEXPIRE', executions_key, EXECUTION_MS)
  redis.pcall('HSET', key, 'id', epoch, 'job_id', id, 'worker_name', worker, 'created_at', now_s, 'last_heartbeat', now_s)
  redis.call('PEXPIRE', key, EXECUTION_MS)
end

-- Show that an attempt runs no more.
local function hide_execution(id, epoch, wip_key)
  redis.pcall('ZREM', wip_key, id .. ':' .. epoch)
  redis.call('DEL', 'rq:executions:' .. id, 'rq:execution:' .. id .. ':' .. epoch)
end
