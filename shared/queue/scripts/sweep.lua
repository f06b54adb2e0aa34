#!lua flags=allow-oom
-- Look through a batch of open tasks for any that is not where its hash says, and queue it again. Our own scripts never
-- leave one behind; `rq empty`, a deleted key or a restored backup do. Also drop ended tasks from the head of one queue,
-- which would stay if no worker reads it any more.
--
-- Uses shared/connections/clock: clock, natural, whole
-- Uses shared/queue/functions/questions: is_asking, stand_still
-- Uses shared/queue/functions/emptied: DEFERRED, is_removed, note_emptied, was_emptied
-- Uses shared/queue/functions/turns: LOOKED, QUEUE_KEY, call_next, is_stand_in, leave_thread, lies_on, so_far, pass_turn,
--   put_back, stopped_running, taken, tenant_of
-- Uses shared/queue/functions/rq_jobs: hide_execution, show_again
-- Uses shared/queue/functions/shares: TENANTS_KEY, discharge, settle_share
-- Uses shared/queue/functions/memory: note_memory
-- Uses shared/queue/functions/records/thread_rows: keep_open_thread
--
-- KEYS[1] agent:open      zset    id -> deadline (ms); past it, when to look again
-- KEYS[2] agent:sweeper   hash    worker, until (ms): who sweeps for the fleet; from: how far it got; drops: the queue
--                                 of which it drops ended tasks
-- KEYS[3] agent:delayed   zset    id -> when it is due (ms)
-- KEYS[4] agent:graphs    zset    graph -> until when a live worker serves it (ms)
-- KEYS[5] rq:queues       set     keys of the queues' lists
-- KEYS[6] agent:workers   zset    worker -> lease end (ms)
-- KEYS[7] agent:spent     list    ids of tasks without thread that ended while they waited
-- ARGV[1] n, tasks looked at
-- ARGV[2] the worker that calls; empty: the caller is no worker, and sweeps although a worker does
-- ARGV[3] how long no other worker sweeps after this call (ms)
-- ARGV[4] now (ms) in tests, else empty
-- Returns {ids queued again, ids past their deadline that no worker runs, ids that RQ's tools removed,
--          1 if more may be past their deadline or may be dropped, else 0, graphs of the live workers if there are overdue ids,
--          ids whose hash cannot be read, which no worker runs either, open tasks,
--          ids of ended tasks whose own checkpoints are to go}; all empty while another worker sweeps
local open_key, sweeper_key, delayed_key, graphs_key, queues_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local workers_key, spent_key = KEYS[6], KEYS[7]
local n, caller, lease_ms, now_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), clock(ARGV[4])
-- Longer lists are not searched: they would block Redis.
local SEARCHED = 10000
-- Entries that are searched for each task on average: of a list with more, every second, third, ... task is looked for,
-- another one each time.
local SEARCHED_EACH = 200
local search = now_ms
-- Ids of a queue's list that are compared with the turns of its users.
local LISTED = 500
-- A task past its deadline that was looked at is left alone for so long (ms): those that run, which their workers end,
-- do not hide those that wait, and sweepers do not all end the same ones. One whose sweeper dies is found after it.
local LOOK_AGAIN = 5000

local function is_in(list_key, id)
  local length = redis.call('LLEN', list_key)
  search = search + 1
  if length > SEARCHED or (length > SEARCHED_EACH and search % math.ceil(length / SEARCHED_EACH) > 0) then
    return true
  end
  return length > 0 and redis.call('LPOS', list_key, id) ~= false
end

-- A worker that has left the register is not reaped any more.
local function is_owned(id, owner)
  return owner and redis.call('SISMEMBER', 'agent:own:' .. owner, id) == 1 and redis.call('ZSCORE', workers_key, owner)
end

-- What the hash must have for the task to be at its place; other programs may write to it.
local NEEDED = {queue = {}, delayed = {}, owned = {}, waiting = {'user'}, parked = {'user', 'thread'}}

local function is_readable(place, fields)
  for _, name in ipairs(NEEDED[place] or {'place'}) do
    if not fields[name] then
      return false
    end
  end
  return fields.queue
end

-- Whether the head of a thread's list stands in for ended tasks, and a claim will go on from there.
local function stands_in(id)
  local place, queue = unpack(redis.call('HMGET', 'agent:task:' .. id, 'place', 'queue'))
  return place == 'queue' and queue and is_in(QUEUE_KEY .. queue, id)
end

-- Whether the task is where its hash says, or behind one that is.
local function is_in_place(id, place, queue, user, thread, owner)
  local queue_key = QUEUE_KEY .. queue
  if place == 'owned' then
    return is_owned(id, owner)
  elseif place == 'delayed' then
    return redis.call('ZSCORE', delayed_key, id)
  elseif place == 'parked' then
    local head = redis.call('LINDEX', 'agent:thread:' .. thread, 0)
    return head
      and (is_asking(thread) or (head ~= id and (redis.call('ZSCORE', open_key, head) or stands_in(head))))
  elseif place == 'waiting' then
    local tenant = tenant_of(user)
    if redis.call('HEXISTS', 'agent:runnable:' .. queue, user) == 1
        or redis.call('ZSCORE', 'agent:tenant_line:' .. queue .. ':' .. tenant, user) then
      return redis.call('HEXISTS', 'agent:tenant_turns:' .. queue, tenant) == 1 and redis.call('EXISTS', queue_key) == 1
        and is_in('agent:waiting:' .. queue .. ':' .. user, id)
    end
    return redis.call('SISMEMBER', 'agent:capped:' .. user, queue) == 1
  end
  return is_in(queue_key, id)
end

local function queue_again(id, place, queue, user, thread, owner, epoch)
  local task_key = 'agent:task:' .. id
  if redis.call('EXISTS', QUEUE_KEY .. queue) == 0 then
    redis.call('DEL', 'agent:runnable:' .. queue, 'agent:tenant_turns:' .. queue)
  end
  if place == 'owned' then
    redis.call('HINCRBY', task_key, 'crashes', 1)
    redis.call('SREM', 'agent:own:' .. (owner or ''), id)
    hide_execution(id, epoch or '', 'rq:wip:' .. queue)
    stopped_running(user)
  elseif place == 'parked' then
    local thread_key = 'agent:thread:' .. thread
    local head = redis.call('LINDEX', thread_key, 0)
    if head and head ~= id then
      return leave_thread(head, thread)
    elseif not head then
      redis.call('RPUSH', thread_key, id)
    end
  elseif place == 'delayed' and redis.call('HGET', task_key, 'waits_for') == 'start' then -- not in its thread yet
    return redis.call('ZADD', delayed_key, whole(natural(redis.call('HGET', task_key, 'waits_until'), now_ms)), id)
  end
  put_back(id, queue, user)
end

-- Give the place of a task that left its list without being taken to the next one.
local asked = {}
local function free_place(id, place, queue, user)
  if place ~= 'queue' then
    return
  end
  if not asked[queue] then
    asked[queue] = true
    note_emptied(queue, 0)
  end
  redis.pcall('ZREM', DEFERRED .. queue, id)
  if user then
    pass_turn(queue, user, taken(queue, user))
  end
end

-- A tenant or a user whose id was lost together with its task's hash would wait until the list is empty.
local function check_turn(queue)
  local turns_key, runnable_key = 'agent:tenant_turns:' .. queue, 'agent:runnable:' .. queue
  local tenant, user = redis.call('HRANDFIELD', turns_key), redis.call('HRANDFIELD', runnable_key)
  local length = redis.call('LLEN', QUEUE_KEY .. queue)
  if length == 0 or length > LISTED then
    return
  end
  for _, id in ipairs(redis.call('LRANGE', QUEUE_KEY .. queue, 0, -1)) do
    tenant = tenant ~= tenant_of(id) and tenant
    user = user and user ~= redis.call('HGET', 'agent:task:' .. id, 'user') and user
  end
  if tenant then
    redis.call('HDEL', turns_key, tenant)
    call_next(queue, tenant)
  end
  if user then
    redis.call('HDEL', runnable_key, user)
    pass_turn(queue, user, true)
  end
end

-- Returns whether there may be more of them.
local function drop_ended(queue_key)
  local queue = queue_key:sub(#QUEUE_KEY + 1)
  while so_far.looked < LOOKED do
    local id = redis.call('LINDEX', queue_key, 0)
    local task_key = 'agent:task:' .. (id or '')
    local state, user, place, home, thread =
      unpack(redis.call('HMGET', task_key, 'state', 'user', 'place', 'queue', 'thread'))
    if not state or state == 'pending' then
      return false
    end
    so_far.looked = so_far.looked + 1
    redis.call('LPOP', queue_key)
    redis.pcall('ZREM', DEFERRED .. queue, id)
    if is_stand_in(id) then
      redis.call('DEL', 'rq:job:' .. id)
    else
      show_again(id, now_ms)
    end
    if lies_on(queue, home, place) then
      redis.call('HSET', task_key, 'place', 'done')
      leave_thread(id, thread)
      if user then
        pass_turn(queue, user, taken(queue, user))
      end
    end
  end
  return true
end

-- The script decides each time who sweeps, so that no worker does after another has taken over.
local sweeper, until_ms, from, some_queue = unpack(redis.call('HMGET', sweeper_key, 'worker', 'until', 'from', 'drops'))
if caller ~= '' and sweeper and sweeper ~= caller and natural(until_ms, 0) > now_ms then
  return {{}, {}, {}, 0, {}, {}, 0, {}}
end
from = natural(from, 0)
local ids = redis.call('ZRANGE', open_key, from, from + n - 1)
redis.call('HSET', sweeper_key, 'from', #ids < n and 0 or from + n)
if caller ~= '' then
  redis.call('HSET', sweeper_key, 'worker', caller, 'until', whole(now_ms + lease_ms))
end
redis.call('EXPIRE', sweeper_key, 86400)
local again, removed, unreadable, kept = {}, {}, {}, {}
-- A thread that lost its list gets it back from its task that runs or is next, before a parked one is taken for next.
for _, id in ipairs(ids) do
  local state, place, thread = unpack(redis.call('HMGET', 'agent:task:' .. id, 'state', 'place', 'thread'))
  if thread and place ~= 'parked' and (state == 'pending' or state == 'running')
      and redis.call('LLEN', 'agent:thread:' .. thread) == 0 then -- of another type it is no list either
    redis.call('RPUSH', 'agent:thread:' .. thread, id)
  end
end
for _, id in ipairs(ids) do
  local task_key = 'agent:task:' .. id
  local task = redis.call('HMGET', task_key, 'state', 'place', 'queue', 'user', 'thread', 'owner', 'epoch', 'created', 'started',
    'enters')
  local state, place, queue, user, thread, owner, epoch, created, started, enters = unpack(task)
  local uses = thread or enters
  if uses and not kept[uses] and (state == 'pending' or state == 'running') then
    kept[uses] = true
    keep_open_thread(uses, tenant_of(uses), now_ms)
  end
  if state ~= 'pending' and state ~= 'running' then
    redis.call('ZREM', open_key, id)
    discharge(id, 0, 0, now_ms)
  elseif not is_readable(place, {queue = queue, user = user, thread = thread}) then
    if state == 'pending' or not is_owned(id, owner) then
      redis.call('HSET', task_key, 'state', 'pending', 'place', 'done')
      unreadable[#unreadable + 1] = id
    end
  elseif not is_in_place(id, place, queue, user, thread, owner) then
    free_place(id, place, queue, user)
    if state == 'pending' and (is_removed(id) or was_emptied(queue, created, started)) then
      removed[#removed + 1] = id
    else
      queue_again(id, place, queue, user, thread, owner, epoch)
      again[#again + 1] = id
    end
  elseif state == 'pending' and (is_removed(id) or was_emptied(queue, created, started)) then
    removed[#removed + 1] = id
  end
end

local overdue = {}
local late = redis.call('ZRANGE', open_key, '-inf', whole(now_ms), 'BYSCORE', 'LIMIT', 0, n)
for _, id in ipairs(late) do
  local state, before = unpack(redis.call('HMGET', 'agent:task:' .. id, 'state', 'still_before'))
  local deadline = before and stand_still(id, now_ms) or 0
  redis.call('ZADD', open_key, whole(math.max(deadline, now_ms + LOOK_AGAIN)), id)
  if state == 'pending' and deadline <= now_ms then
    overdue[#overdue + 1] = id
  end
end
if not some_queue or redis.call('SISMEMBER', queues_key, some_queue) == 0 then
  some_queue = redis.call('SRANDMEMBER', queues_key)
end
-- A producer may add any name: of a key that is no queue nothing may be read, as R15 would delete it.
if some_queue and some_queue:sub(1, #QUEUE_KEY) ~= QUEUE_KEY then
  redis.call('SREM', queues_key, some_queue)
  some_queue = nil
end
local may_drop_more = some_queue and drop_ended(some_queue)
if may_drop_more then
  redis.call('HSET', sweeper_key, 'drops', some_queue)
else
  redis.call('HDEL', sweeper_key, 'drops')
end
if some_queue then
  check_turn(some_queue:sub(#QUEUE_KEY + 1))
end
local some_tenant = redis.call('ZRANDMEMBER', TENANTS_KEY)
if some_tenant then
  settle_share(some_tenant, now_ms)
end
note_memory(now_ms)
local graphs = #overdue > 0 and redis.call('ZRANGE', graphs_key, '(' .. whole(now_ms), '+inf', 'BYSCORE') or {}
local spent = redis.pcall('LPOP', spent_key, n) or {} -- of another type: none
return {again, overdue, removed, (#late == n or may_drop_more) and 1 or 0, graphs, unreadable, redis.call('ZCARD', open_key),
  {unpack(spent)}}
