-- Pop up to n runnable tasks, queue by queue in the order given, and make this worker their owner.
--
-- An id without a task hash was put there by a plain RQ `Queue.enqueue`: it is owned first, so that it cannot be lost,
-- and then adopted or rejected by its owner. Of such a job only the fields that matter are read, and only when short.
-- A task whose graph this worker does not serve is put aside for those that do. Before that, a few tasks that waited for
-- something that is free now go on.
--
-- Uses shared/connections/clock: clock, natural, whole
-- Uses shared/queue/functions/routing: serves
-- Uses shared/queue/functions/turns: LOOKED, QUEUE_KEY, call_next, claimed_from, is_stand_in, leave_thread, lies_on,
--   so_far, pass_turn, put_aside, ring, taken, tenant_of, wait_below_cap
-- Uses shared/queue/functions/emptied: DEFERRED, is_removed, note_emptied
-- Uses shared/queue/functions/questions: stand_still
-- Uses shared/queue/functions/waits: take_marked
-- Uses shared/queue/functions/records/remembered_ids: recall_id
-- Uses shared/queue/functions/rq_jobs: FAR, show_again, task_bytes
-- Uses shared/queue/functions/events: record_state
--
-- KEYS[1] agent:workers          zset    worker -> lease end (ms)
-- KEYS[2] agent:own:<worker>     set     ids that this worker owns
-- KEYS[3] agent:open             zset    id -> deadline (ms)
-- KEYS[4] rq:suspended           string  set while `rq suspend` holds
-- KEYS[5] rq:worker:<worker>     hash    RQ's worker, read by its tools
-- KEYS from the 6th on: rq:queue:<queue>, lists, the most urgent first; side queues too
-- ARGV[1] worker
-- ARGV[2] n
-- ARGV[3] longest job data that is read (bytes); no further task is claimed once data of this size have been read
-- ARGV[4] keep the events after the deadline (ms)
-- ARGV[5] deadline of an adopted job until it is adopted (ms from now)
-- ARGV[6] tasks of one user in flight at most, 0 for any number
-- ARGV[7] now as RQ writes it, for its tools only
-- ARGV[8] longest stream of events (entries, about)
-- ARGV[9] graphs that the worker serves, ",a,b,"
-- ARGV[10] now (ms) in tests, else empty
-- Returns {outcome, now (ms), tasks, dropped ids, number put aside, or left to the sweeper because a tool of RQ removed
--   them, those of the dropped ids that are not of tasks which ended in the queue}; outcome: ok | no_lease | suspended;
--   where ids were dropped or put aside there may be more to claim
--   task: {id, epoch, queue, created (ms), started (ms), deadline (ms), crashes, failures, waits, 1 if it is to be
--          cancelled, {input tokens, output tokens, nano-dollars used before}, data, origin, names of unusual fields,
--          line in which it blocked the event loop of an earlier owner, or empty,
--          {timeout, result_ttl, failure_ttl (s)} as stock RQ wrote them, empty for none},
--          how many tasks may share its child process, 0 for any number, fencing token}
--   origin: ours | enqueued (by stock RQ) | adopted (likewise, by an earlier attempt) | too_long (data not read) |
--     malformed (no hash)
local workers_key, own_key, open_key, suspended_key, rq_worker_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, n, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local events_ms, adopt_ms, cap, now_iso = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local longest, graphs, now_ms = ARGV[8], ARGV[9], clock(ARGV[10])
local read_bytes = 0
-- Of the last claim. A token is higher than all before it, even if a failover has set the clock back (R19).
local token = tonumber(redis.call('GET', 'agent:token') or '') or 0
local now = whole(now_ms)
local TOKEN_MS = 86400000
local MOST_ASIDE, MOST_WOKEN, MOST_FREED = 64, 16, 32

local lease_end = tonumber(redis.call('ZSCORE', workers_key, worker))
if not lease_end or lease_end <= now_ms then
  return {'no_lease', now, {}, {}, 0, {}}
end
if redis.call('EXISTS', suspended_key) == 1 then
  return {'suspended', now, {}, {}, 0, {}}
end

-- Fields that make RQ call, retry or wait for something. We do none of it, so a job that has one is rejected.
local acting = {'success_callback_name', 'failure_callback_name', 'stopped_callback_name', 'webhooks', 'dependency_id',
  'dependency_ids', 'number_of_retries', 'retries_left', 'retry_intervals', 'repeats_left', 'repeat_intervals',
  'rate_limit_key', 'group_id'}

-- What RQ's clients ask for that we have too.
local function read_options(job_key)
  local options = redis.call('HMGET', job_key, 'timeout', 'result_ttl', 'failure_ttl')
  for i = 1, 3 do
    options[i] = (options[i] or ''):sub(1, 20)
  end
  return options
end

local function foreign(job_key)
  if redis.call('TYPE', job_key).ok ~= 'hash' then
    return 'malformed', '', {}, {}
  end
  if redis.call('HSTRLEN', job_key, 'data') > max_bytes then
    return 'too_long', '', {}, {}
  end
  local found = {}
  for _, field in ipairs(acting) do
    if redis.call('HSTRLEN', job_key, field) > 0 then
      found[#found + 1] = field
    end
  end
  return 'enqueued', redis.call('HGET', job_key, 'data') or '', found, read_options(job_key)
end

-- Make a task of a job that is known to RQ only.
local function register(id, task_key, job_key, queue)
  if #id > 128 or not id:match('^[%w_-]+$') or redis.call('EXISTS', job_key) == 0 or recall_id(id, now_ms) then
    return false
  end
  local deadline = whole(now_ms + adopt_ms)
  redis.call('HSET', task_key, 'state', 'pending', 'epoch', 0, 'queue', queue, 'created', now, 'deadline', deadline,
    'digest', '')
  redis.call('ZADD', open_key, deadline, id)
  redis.call('DEL', 'agent:result:' .. id, 'agent:events:' .. id, 'rq:results:' .. id) -- of an earlier task
  return true
end

local function own(id, task_key, job_key, queue)
  local fields = redis.call('HMGET', task_key, 'epoch', 'created', 'deadline', 'crashes', 'failures', 'started',
    'cancel', 'digest', 'user', 'waits', 'input_tokens', 'output_tokens', 'cost_nano_usd', 'estimated_calls',
    'blocked_in', 'result_ms', 'group_size', 'still_before')
  local epoch, created, deadline, crashes, failures, started, cancel, digest, user, waits = unpack(fields, 1, 10)
  local origin, data, acts, options = fields[16] and 'adopted' or 'ours', nil, {}, {}
  if digest == '' then
    origin, data, acts, options = foreign(job_key)
  else
    local bytes, field = task_bytes(job_key)
    if bytes > max_bytes then
      origin, data = 'too_long', ''
    else
      data = redis.call('HGET', job_key, field) or ''
    end
  end
  read_bytes = read_bytes + #data
  epoch = natural(epoch, 0) + 1
  token = math.max(token + 1, now_ms * 1000)
  created, started, deadline = natural(created, now_ms), natural(started, now_ms), natural(deadline, now_ms)
  if fields[18] then
    deadline = stand_still(id, now_ms)
    redis.call('HDEL', task_key, 'still_before')
  end
  redis.call('HSET', task_key, 'state', 'running', 'epoch', epoch, 'owner', worker, 'place', 'owned',
    'started', whole(started))
  redis.call('SADD', own_key, id)
  redis.call('ZADD', open_key, 'NX', whole(deadline), id) -- it is there already, unless another program removed it
  if user then
    redis.call('HINCRBY', 'agent:in_flight', user, 1)
  end
  redis.pcall('ZADD', 'rq:wip:' .. queue, FAR, id .. ':' .. epoch)
  if origin ~= 'malformed' then
    redis.call('HSET', job_key, 'status', 'started', 'worker_name', worker, 'started_at', now_iso)
  end
  record_state(id, 'running', epoch, longest)
  redis.call('PEXPIREAT', 'agent:events:' .. id, whole(deadline + events_ms))
  return {id, epoch, queue, created, started, deadline, natural(crashes, 0), natural(failures, 0), natural(waits, 0),
    cancel and 1 or 0, {unpack(fields, 11, 14)}, data, origin, acts, fields[15] or '', options,
    natural(fields[17], 0), token}
end

-- An empty list holds no id of any user. A user or a tenant marked as having one there lost it to a tool of RQ, or its
-- task's hash expired.
local function freed(queue)
  local runnable_key, turns_key = 'agent:runnable:' .. queue, 'agent:tenant_turns:' .. queue
  if redis.call('EXISTS', runnable_key, turns_key) == 0 then
    return false
  end
  note_emptied(queue, 0)
  local users = redis.call('HRANDFIELD', runnable_key, MOST_FREED)
  local tenants = redis.call('HRANDFIELD', turns_key, MOST_FREED)
  for i = 1, math.max(#users, #tenants) do
    redis.call('HDEL', runnable_key, users[i] or '')
    redis.call('HDEL', turns_key, tenants[i] or '', users[i] and tenant_of(users[i]) or '')
  end
  for _, user in ipairs(users) do
    pass_turn(queue, user, true)
  end
  for _, tenant in ipairs(tenants) do
    call_next(queue, tenant)
  end
  return true
end

for i = 6, #KEYS do
  claimed_from[KEYS[i]:sub(#QUEUE_KEY + 1)] = true
end
take_marked(MOST_WOKEN, now_ms)
local tasks, dropped, odd, aside = {}, {}, {}, 0
for i = 6, #KEYS do
  local queue_key = KEYS[i]
  local queue = queue_key:sub(#QUEUE_KEY + 1)
  while #tasks < n and so_far.looked < LOOKED and aside < MOST_ASIDE and read_bytes < max_bytes do
    local id = redis.call('LPOP', queue_key) or (freed(queue) and redis.call('LPOP', queue_key))
    if not id then
      break
    end
    so_far.looked = so_far.looked + 1
    redis.pcall('ZREM', DEFERRED .. queue, id)
    local task_key, job_key = 'agent:task:' .. id, 'rq:job:' .. id
    local task = redis.call('HMGET', task_key, 'state', 'user', 'place', 'queue', 'graph', 'cancel', 'thread')
    local state, user, place, home, graph, cancel, thread = unpack(task)
    -- Stock RQ may push an id that waits elsewhere, or lies here already (R18 in docs/architecture.md).
    local lies_here = lies_on(queue, home, place)
    local is_last = lies_here and user and taken(queue, user)
    local is_next = lies_here and state == 'pending'
    if is_next and is_removed(id) then -- the sweeper ends it
      aside = aside + 1
      redis.call('HSET', task_key, 'place', 'delayed')
    elseif is_next and user and graph and not ((cancel and cancel ~= 'rollback') or serves(graphs, graph)) then
      aside = aside + 1
      put_aside(id, queue, graph, user)
    elseif is_next and user and cap > 0
        and natural(redis.call('HGET', 'agent:in_flight', user), 0) >= cap then
      wait_below_cap('LPUSH', id, queue, user)
      is_last = false
    elseif (is_next and id:match('^[%w_-]+$')) or (not state and register(id, task_key, job_key, queue)) then
      tasks[#tasks + 1] = own(id, task_key, job_key, queue)
    else
      local stands_in = false
      if lies_here then -- it has ended meanwhile, or stands in
        redis.call('HSET', task_key, 'place', 'done')
        stands_in = is_stand_in(id)
        if stands_in then
          redis.call('DEL', job_key)
        end
        leave_thread(id, thread)
      end
      if not stands_in then
        show_again(id, now_ms)
      end
      dropped[#dropped + 1] = id:sub(1, 64)
      if not lies_here then
        odd[#odd + 1] = dropped[#dropped]
      end
    end
    if lies_here and user then
      pass_turn(queue, user, is_last)
    end
  end
end
for i = 6, (#tasks >= n or read_bytes >= max_bytes or so_far.looked >= LOOKED) and #KEYS or 0 do
  if not KEYS[i]:find(':', #QUEUE_KEY + 1, true) and redis.call('EXISTS', KEYS[i]) == 1 then
    ring(KEYS[i]:sub(#QUEUE_KEY + 1))
  end
end
if #tasks > 0 then
  redis.call('SET', 'agent:token', whole(token), 'PX', TOKEN_MS)
end
if #tasks > 0 and redis.call('EXISTS', rq_worker_key) == 1 then
  redis.call('HSET', rq_worker_key, 'state', 'busy')
end
return {'ok', now, tasks, dropped, aside, odd}
