-- Pop up to n runnable tasks, queue by queue in the order given, and make this worker their owner.
--
-- An id without a task hash was put there by a plain RQ `Queue.enqueue`: it is owned first, so that it cannot be lost,
-- and then adopted or rejected by its owner. Of such a job only the fields that matter are read, and only when short.
--
-- KEYS[1] agent:workers          zset    worker -> lease end (ms)
-- KEYS[2] agent:own:<worker>     set     ids that this worker owns
-- KEYS[3] agent:open             zset    id -> created (ms)
-- KEYS[4] rq:suspended           string  set while `rq suspend` holds
-- KEYS[5] rq:worker:<worker>     hash    RQ's worker, read by its tools
-- KEYS from the 6th on: rq:queue:<queue>, lists, the most urgent first
-- ARGV[1] worker
-- ARGV[2] n
-- ARGV[3] longest job data that is read (bytes)
-- ARGV[4] keep the events after the deadline (ms)
-- ARGV[5] deadline of an adopted job until it is adopted (ms from now)
-- ARGV[6] now as RQ writes it, for its tools only
-- ARGV[7] now (ms) in tests, else empty
-- Returns {outcome, now (ms), tasks, dropped ids}; outcome: ok | no_lease | suspended
--   task: {id, epoch, queue, created (ms), started (ms), deadline (ms), crashes, data, origin, names of unusual fields}
--   origin: ours | enqueued (by stock RQ) | too_long (data not read) | malformed (no hash)
local workers_key, own_key, open_key, suspended_key, rq_worker_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, n, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local events_ms, adopt_ms, now_iso = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local now_ms = tonumber(ARGV[7])
if not now_ms then
  local time = redis.call('TIME')
  now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
end
local now = string.format('%.0f', now_ms)

local lease_end = tonumber(redis.call('ZSCORE', workers_key, worker))
if not lease_end or lease_end < now_ms then
  return {'no_lease', now, {}, {}}
end
if redis.call('EXISTS', suspended_key) == 1 then
  return {'suspended', now, {}, {}}
end

-- Fields that make RQ call, retry or wait for something. None of it is done here, so none may be silently ignored.
local acting = {'success_callback_name', 'failure_callback_name', 'stopped_callback_name', 'webhooks', 'dependency_id',
  'dependency_ids', 'number_of_retries', 'retries_left', 'retry_intervals', 'repeats_left', 'repeat_intervals',
  'rate_limit_key', 'group_id'}

local function foreign(id, job_key)
  if redis.call('TYPE', job_key).ok ~= 'hash' then
    return 'malformed', '', {}
  end
  if redis.call('HSTRLEN', job_key, 'data') > max_bytes then
    return 'too_long', '', {}
  end
  local found = {}
  for _, field in ipairs(acting) do
    if redis.call('HSTRLEN', job_key, field) > 0 then
      found[#found + 1] = field
    end
  end
  return 'enqueued', redis.call('HGET', job_key, 'data') or '', found
end

local tasks, dropped = {}, {}
for i = 6, #KEYS do
  local queue_key = KEYS[i]
  local queue = queue_key:sub(10)
  while #tasks < n do
    local id = redis.call('LPOP', queue_key)
    if not id then
      break
    end
    local task_key, job_key = 'agent:task:' .. id, 'rq:job:' .. id
    local task = redis.call('HMGET', task_key, 'state', 'epoch', 'created', 'deadline', 'crashes', 'started')
    local state, epoch, created, deadline, crashes, started = unpack(task)
    local origin, data, acts = 'ours', nil, {}
    if state == 'pending' then
      data = redis.call('HGET', job_key, 'data') or ''
      epoch = tonumber(epoch) + 1
    elseif not state and #id <= 128 and id:match('^[%w_-]+$') and redis.call('EXISTS', job_key) == 1 then
      origin, data, acts = foreign(id, job_key)
      epoch, created, deadline = 1, now, string.format('%.0f', now_ms + adopt_ms)
      redis.call('HSET', task_key, 'queue', queue, 'created', created, 'deadline', deadline, 'digest', '')
      redis.call('PEXPIREAT', task_key, string.format('%.0f', deadline + events_ms))
      redis.call('ZADD', open_key, now, id)
    end
    if data then
      redis.call('HSET', task_key, 'state', 'running', 'epoch', epoch, 'owner', worker, 'place', 'owned',
        'started', started or now)
      redis.call('SADD', own_key, id)
      -- Far in the future, so that RQ's own registry cleanup never takes a running task for an abandoned one.
      redis.call('ZADD', 'rq:wip:' .. queue, '4102444800', id .. ':' .. epoch)
      if origin ~= 'malformed' then
        redis.call('HSET', job_key, 'status', 'started', 'worker_name', worker, 'started_at', now_iso)
      end
      local events_key = 'agent:events:' .. id
      redis.call('XADD', events_key, '*', 'type', 'state', 'data', '{"state":"running","attempt":' .. epoch .. '}')
      redis.call('PEXPIREAT', events_key, string.format('%.0f', deadline + events_ms))
      tasks[#tasks + 1] = {id, epoch, queue, created, started or now, deadline, crashes or '0', data, origin, acts}
    else
      dropped[#dropped + 1] = id:sub(1, 64)
    end
  end
end
if #tasks > 0 and redis.call('EXISTS', rq_worker_key) == 1 then
  redis.call('HSET', rq_worker_key, 'state', 'busy')
end
return {'ok', now, tasks, dropped}
