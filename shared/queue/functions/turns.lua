-- Turns: where a task waits and which one is next.
--
-- Tenants take turns, and so do the users of a tenant: a queue's list holds one id per tenant. The tenant's other users
-- stand in its line, and the tasks of a user wait in a list. When an id is taken from the queue's list, its user goes to
-- the end of the line, and the first user of the line puts a task on the queue's list. A user with nothing in flight goes
-- first. A thread's tasks run one at a time: its list holds them in order, and all but the head are parked; all are while
-- they wait for the answer to a question.
--
-- Uses shared/connections/clock: whole
-- Uses shared/queue/functions/questions: end_question, is_asking, still_ms
-- Uses shared/queue/functions/emptied: DEFERRED, LISTED, show_listed, show_waiting, tasks_wait, was_emptied
--
-- agent:tenant_turns:<queue>          hash  tenant -> ids of its in rq:queue:<queue>; <tenant>! -> users with nothing in
--                                           flight who were called in a row
-- agent:tenant_line:<queue>:<tenant>  zset  user -> position, below 0 with nothing in flight; users with a waiting task
--                                           and none on the queue's list
-- agent:runnable:<queue>              hash  user -> ids of theirs in rq:queue:<queue>
-- agent:waiting:<queue>:<user>        list  ids that wait for their user's turn
-- agent:in_flight                     hash  user -> tasks that run
-- agent:capped:<user>                 set   queues in which the user waits only because of the cap on tasks in flight
-- agent:thread:<thread>               list  ids of the thread's open tasks, in order
-- agent:bell:<queue>                  list  one entry, which one idle worker pops when there may be work; an hour
-- Only the bell has a TTL; the others are gone when nothing waits or runs.
local QUEUE_KEY = 'rq:queue:'
local FAIR_RUN = 2
-- Position before that of the first user with nothing in flight; numbers up to 2^53 are exact.
local NEWCOMERS = -4503599627370496
-- Ended tasks that one script skips at most, so that a million of them never block Redis; then a made-up one stands in.
local LOOKED = 100
-- How long (ms) the hash of a stand-in is kept.
local STAND_IN_MS = 86400000
local NEVER = '1970-01-01T00:00:00.000000Z'
local STAND_IN_DATA = '["langgraph_rq.run_task",null,[],{}]'
local so_far = { looked = 0 }
-- Queues in which a user at the cap gets a turn at once when a task of theirs has run.
local CAPPED = 16

-- Wake one idle worker of a queue, unless one is about to be woken. A Redis user of an earlier version may not: the
-- worker that watches the queue does it then.
local BELL_MS = 3600000
local claimed_from = {}
local function ring(queue)
  local bell_key = 'agent:bell:' .. queue
  if redis.pcall('LLEN', bell_key) == 0 then
    redis.pcall('RPUSH', bell_key, 1)
    redis.pcall('PEXPIRE', bell_key, BELL_MS)
  end
end

-- Put an id on a queue's list with `command`. Idle workers wait for its bell; of side queues a message tells them. A claim
-- rings for what it leaves on its own queues.
local function push(command, queue, id)
  redis.call(command, QUEUE_KEY .. queue, id)
  if queue:find(':', 1, true) then
    redis.call('PUBLISH', 'agent:side_queues', queue)
  elseif not claimed_from[queue] then
    ring(queue)
  end
end

-- The tenant of a user's key, <tenant>--<user>, or of a task's id; ids of the default tenant stand alone.
local function tenant_of(key)
  local dashes = key:find('--', 1, true)
  return dashes and key:sub(1, dashes - 1) or 'default'
end

-- Whether an id on the queue's list is where its task's hash says (R18 in docs/architecture.md).
local function lies_on(queue, home, place)
  return home == queue and place == 'queue'
end

-- Put a task on its queue's list with `command`, and count it for its user and its tenant.
local function lay(command, id, queue, user)
  redis.call('HSET', 'agent:task:' .. id, 'place', 'queue')
  push(command, queue, id)
  if user then
    redis.call('HINCRBY', 'agent:runnable:' .. queue, user, 1)
    redis.call('HINCRBY', 'agent:tenant_turns:' .. queue, tenant_of(user), 1)
  end
end

-- Whether an id is that of a stand-in; no task's begins with a dash.
local function is_stand_in(id)
  return (id:match('^%w+%-%-(.*)') or id):find('^%-next%-') ~= nil
end

-- Make an ended task up that stands in for those at which this script does not look: it is put on its queue's list, and
-- the script that pops its id goes on from there. It has a job, since RQ's `get_jobs` takes ids without one off the list.
local function stand_in(queue, user, thread)
  local tenant = tenant_of(user)
  local id = (tenant == 'default' and '' or tenant .. '--') .. '-next-' .. redis.sha1hex(queue .. user .. (thread or ''))
  redis.call('HSET', 'agent:task:' .. id, 'state', 'cancelled', 'queue', queue, 'user', user, 'thread', thread or '')
  redis.call('PEXPIRE', 'agent:task:' .. id, STAND_IN_MS)
  redis.call('HSET', 'rq:job:' .. id, 'data', STAND_IN_DATA, 'origin', queue, 'status', 'deferred', 'created_at', NEVER,
    'description', 'stands in for ended tasks')
  redis.call('PEXPIRE', 'rq:job:' .. id, STAND_IN_MS)
  redis.pcall('ZADD', DEFERRED .. queue, LISTED, id)
  return id
end

-- Let the user stand in the tenant's line, behind all others or, with nothing in flight, behind those like them.
local function line_up(queue, user, is_newcomer)
  local line_key = 'agent:tenant_line:' .. queue .. ':' .. tenant_of(user)
  local last
  if is_newcomer then
    last = redis.call('ZRANGE', line_key, '(0', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2] or NEWCOMERS
  else
    last = math.max(redis.call('ZRANGE', line_key, -1, -1, 'WITHSCORES')[2] or 0, 0)
  end
  redis.call('ZADD', line_key, 'NX', last + 1, user)
end

-- Put a task back that had left its queue: it goes first.
local function put_back(id, queue, user)
  show_listed(id, queue, tasks_wait(queue, 0))
  redis.call('HSET', 'agent:task:' .. id, 'state', 'pending')
  redis.call('HDEL', 'agent:task:' .. id, 'owner')
  lay('LPUSH', id, queue, user)
end

-- Take the next user of the tenant's line. After FAIR_RUN of them in a row with nothing in flight another one gets a
-- turn: every third is for those who had one before, however many newcomers there are.
local function next_user(queue, tenant)
  local line_key, turns_key, run = 'agent:tenant_line:' .. queue .. ':' .. tenant, 'agent:tenant_turns:' .. queue, tenant .. '!'
  local first = redis.call('ZRANGE', line_key, 0, 0, 'WITHSCORES')
  local user, is_newcomer = first[1], first[1] and tonumber(first[2]) < 0
  if is_newcomer and redis.call('HINCRBY', turns_key, run, 1) > FAIR_RUN then
    user = redis.call('ZRANGE', line_key, 0, '+inf', 'BYSCORE', 'LIMIT', 0, 1)[1] or user
    is_newcomer = false
  end
  if not is_newcomer then
    redis.call('HDEL', turns_key, run)
  end
  if user then
    redis.call('ZREM', line_key, user)
  end
  return user
end

-- Take the user's next waiting task, or one that stands in.
local function next_waiting(queue, user)
  local waiting_key = 'agent:waiting:' .. queue .. ':' .. user
  local id = redis.call('LPOP', waiting_key)
  while id do
    local state, place, created, started =
      unpack(redis.call('HMGET', 'agent:task:' .. id, 'state', 'place', 'created', 'started'))
    if state == 'pending' and place == 'waiting' and not was_emptied(queue, created, started) then
      redis.pcall('ZADD', DEFERRED .. queue, 'XX', LISTED, id)
      return id
    end
    so_far.looked = so_far.looked + 1
    if so_far.looked > LOOKED then
      return stand_in(queue, user)
    end
    id = redis.call('LPOP', waiting_key)
  end
end

-- Let the tenant's next user put a task on the queue's list, unless one of the tenant's lies there.
local function call_next(queue, tenant)
  if redis.call('HEXISTS', 'agent:tenant_turns:' .. queue, tenant) == 1 then
    return
  end
  local user = next_user(queue, tenant)
  while user do
    local id = so_far.looked > LOOKED and stand_in(queue, user) or next_waiting(queue, user)
    if id then
      return lay('RPUSH', id, queue, user)
    end
    so_far.looked = so_far.looked + 1 -- another program removed what waited
    user = next_user(queue, tenant)
  end
end

-- Put a runnable task on its queue, or behind the other tasks of its user and the other users of its tenant.
local function enqueue(id, queue, user)
  local waiting_key = 'agent:waiting:' .. queue .. ':' .. user
  local others_wait = tasks_wait(queue, 1) -- a new task came after what was emptied
  -- Behind others of a user who is at the cap too, or it would overtake them.
  if redis.call('HEXISTS', 'agent:tenant_turns:' .. queue, tenant_of(user)) == 0
      and redis.call('EXISTS', waiting_key) == 0 then
    show_listed(id, queue, others_wait)
    return lay('RPUSH', id, queue, user)
  end
  redis.call('HSET', 'agent:task:' .. id, 'place', 'waiting')
  redis.call('RPUSH', waiting_key, id)
  show_waiting(id, queue, others_wait)
  -- Not only when it was empty: what another program left in it gives no user a turn.
  if redis.call('HEXISTS', 'agent:runnable:' .. queue, user) == 0
      and redis.call('SISMEMBER', 'agent:capped:' .. user, queue) == 0 then
    line_up(queue, user, redis.call('HEXISTS', 'agent:in_flight', user) == 0)
    call_next(queue, tenant_of(user))
  end
end

-- Move a task that has left its queue's list to the side queue of its graph, which the workers that serve it read.
local function put_aside(id, queue, graph, user)
  local side = queue:match('^[^:]*') .. ':' .. graph
  redis.call('HSET', 'agent:task:' .. id, 'queue', side)
  redis.call('SADD', 'rq:queues', QUEUE_KEY .. side)
  if redis.call('EXISTS', 'rq:job:' .. id) == 1 then
    redis.pcall('HSET', 'rq:job:' .. id, 'origin', side)
  end
  enqueue(id, side, user)
end

-- Let a task wait, first with LPUSH or last with RPUSH of its user's, until the user has fewer tasks in flight.
local function wait_below_cap(command, id, queue, user)
  redis.call(command, 'agent:waiting:' .. queue .. ':' .. user, id)
  redis.call('HSET', 'agent:task:' .. id, 'place', 'waiting')
  redis.call('SADD', 'agent:capped:' .. user, queue)
  show_waiting(id, queue, tasks_wait(queue, 0))
end

-- Count off an id of the user that has left the list. Returns whether it was the user's last one there.
local function taken(queue, user)
  local runnable_key, turns_key, tenant = 'agent:runnable:' .. queue, 'agent:tenant_turns:' .. queue, tenant_of(user)
  if redis.call('HINCRBY', turns_key, tenant, -1) <= 0 then
    redis.call('HDEL', turns_key, tenant)
  end
  if redis.call('HINCRBY', runnable_key, user, -1) <= 0 then
    redis.call('HDEL', runnable_key, user)
    return true
  end
  return false
end

-- Give the turn of an id that has left the list to the tenant's next user. With `is_waiting` the id's own user, who has
-- none on the list, lines up again.
local function pass_turn(queue, user, is_waiting)
  if is_waiting and redis.call('EXISTS', 'agent:waiting:' .. queue .. ':' .. user) == 1 then
    line_up(queue, user, false)
  end
  call_next(queue, tenant_of(user))
end

-- Note that a task of the user has stopped running; a user held back by the cap gets a turn.
local function stopped_running(user)
  if not user then
    return
  end
  if redis.call('HINCRBY', 'agent:in_flight', user, -1) <= 0 then
    redis.call('HDEL', 'agent:in_flight', user)
  end
  -- Those that are left are freed when a task of these has run.
  for _, queue in ipairs(redis.call('SPOP', 'agent:capped:' .. user, CAPPED)) do
    pass_turn(queue, user, redis.call('HEXISTS', 'agent:runnable:' .. queue, user) == 0)
  end
end

-- Make the next task of an ended task's thread runnable, unless the thread shows a question. One that ends while parked
-- is skipped later.
local function leave_thread(id, thread)
  local thread_key = thread and 'agent:thread:' .. thread
  if not thread or redis.call('LINDEX', thread_key, 0) ~= id then
    return
  end
  redis.call('LPOP', thread_key)
  local asks = is_asking(thread)
  local next_id = redis.call('LINDEX', thread_key, 0)
  while next_id do
    local state, place, queue, user, answers, created, started = unpack(redis.call('HMGET', 'agent:task:' .. next_id,
      'state', 'place', 'queue', 'user', 'answers', 'created', 'started'))
    if state == 'pending' and place == 'parked' and queue and user and not was_emptied(queue, created, started) then
      if asks and not answers then
        return
      end
      redis.pcall('ZREM', DEFERRED .. queue, next_id)
      return enqueue(next_id, queue, user)
    end
    so_far.looked = so_far.looked + 1
    if so_far.looked > LOOKED then
      if asks then -- the end of the next one, or the answer, goes on from here
        return
      end
      queue, user = unpack(redis.call('HMGET', 'agent:task:' .. id, 'queue', 'user'))
      if queue and user then
        next_id = stand_in(queue, user, thread)
        redis.call('LPUSH', thread_key, next_id)
        lay('RPUSH', next_id, queue, user)
      end
      return
    end
    redis.call('LPOP', thread_key)
    next_id = redis.call('LINDEX', thread_key, 0)
  end
end

-- Put a task into its thread. Returns whether it is next: the thread is idle, or shows the question that it answers.
local function enter_thread(id, queue, thread, is_answer, now_ms)
  local thread_key, task_key = 'agent:thread:' .. thread, 'agent:task:' .. id
  local head = redis.call('LINDEX', thread_key, 0)
  local place = head and redis.call('HGET', 'agent:task:' .. head, 'place')
  local is_asked = is_asking(thread) and (not head or not place or place == 'parked' or place == 'done')
  redis.call('HSET', task_key, 'thread', thread)
  if is_answer and is_asked then
    redis.call('LPUSH', thread_key, id)
    return true
  end
  if is_asked then -- as in LangGraph, a new input drops the question
    end_question(thread, now_ms)
  end
  if is_answer and is_asking(thread) then -- behind another answer, and before those that wait for one
    redis.call('LINSERT', thread_key, 'AFTER', head, id)
  elseif redis.call('RPUSH', thread_key, id) == 1 then
    return true
  end
  redis.call('HSET', task_key, 'place', 'parked', 'still_before', whole(still_ms(thread, now_ms)))
  show_waiting(id, queue, tasks_wait(queue, 1))
  return false, is_asked
end

-- Let the tasks go on that waited for an answer, now that `id`, which is parked behind them, has dropped the question.
local function wake_thread(id, thread)
  redis.call('LPUSH', 'agent:thread:' .. thread, id)
  leave_thread(id, thread)
end
