-- Turns: where a task waits and which one is next.
--
-- Users take turns: a queue's list holds one id per user, the user's other tasks wait behind it, and when that one is
-- taken the next goes to the tail. A user with nothing in flight goes first. A thread's tasks run one at a time: its
-- list holds them in order, and all but the head are parked.
--
-- agent:runnable:<queue>         hash    user -> ids of theirs in rq:queue:<queue>; !newest and !run, see `enqueue`
-- agent:waiting:<queue>:<user>   list    ids that wait for their user's turn
-- agent:in_flight                hash    user -> tasks that run
-- agent:capped:<user>            set     queues in which the user waits only because of the cap on tasks in flight
-- agent:thread:<thread>          list    ids of the thread's open tasks, in order
-- None of these has a TTL; all but the first, which is small, are gone when nothing waits or runs.
local QUEUE_KEY = 'rq:queue:'
local FAIR_RUN = 100
-- Ended tasks that one script skips at most, so that a million of them never block Redis.
local LOOKED = 1000
local looked = 0

-- Put an id on a queue's list with `command`. Workers block on their queues; of side queues a message tells them.
local function push(command, queue, id)
  redis.call(command, QUEUE_KEY .. queue, id)
  if queue:find(':', 1, true) then
    redis.call('PUBLISH', 'agent:side_queues', queue)
  end
end

-- Whether an id on the queue's list is where its task's hash says (R18 in docs/architecture.md).
local function lies_on(queue, home, place)
  return home == queue and (place == 'queue' or place == 'front')
end

-- Put a runnable task on its queue, or behind the other tasks of its user.
local function enqueue(id, queue, user)
  local queue_key, runnable_key = QUEUE_KEY .. queue, 'agent:runnable:' .. queue
  local waiting_key = 'agent:waiting:' .. queue .. ':' .. user
  -- Behind others of a user who is at the cap too, or it would overtake them.
  if redis.call('HEXISTS', runnable_key, user) == 1 or redis.call('EXISTS', waiting_key) == 1 then
    redis.call('RPUSH', waiting_key, id)
    redis.call('HSET', 'agent:task:' .. id, 'place', 'waiting')
    return
  end
  redis.call('HSET', runnable_key, user, 1)
  -- First come, first served among users with nothing in flight; after FAIR_RUN of them in a row another user gets a
  -- turn, or an endless row of newcomers would starve the rest.
  if redis.call('HEXISTS', 'agent:in_flight', user) == 0
      and redis.call('HINCRBY', runnable_key, '!run', 1) <= FAIR_RUN then
    redis.call('HSET', 'agent:task:' .. id, 'place', 'front')
    local newest = redis.call('HGET', runnable_key, '!newest')
    redis.call('HSET', runnable_key, '!newest', id)
    if not newest or redis.call('HGET', 'agent:task:' .. newest, 'place') ~= 'front'
        or redis.call('LINSERT', queue_key, 'AFTER', newest, id) < 1 then
      push('LPUSH', queue, id)
    end
  else
    redis.call('HSET', 'agent:task:' .. id, 'place', 'queue')
    push('RPUSH', queue, id)
  end
end

-- Move a task that has left its queue's list to the side queue of its graph, which the workers that serve it read.
local function put_aside(id, queue, graph, user)
  local runnable_key = 'agent:runnable:' .. queue
  local side = queue:match('^[^:]*') .. ':' .. graph
  if redis.call('HGET', runnable_key, '!newest') == id then
    redis.call('HDEL', runnable_key, '!newest')
  end
  redis.call('HSET', 'agent:task:' .. id, 'queue', side)
  redis.call('SADD', 'rq:queues', QUEUE_KEY .. side)
  if redis.call('EXISTS', 'rq:job:' .. id) == 1 then
    redis.pcall('HSET', 'rq:job:' .. id, 'origin', side)
  end
  enqueue(id, side, user)
end

-- Put a task back that had left its queue: it goes first.
local function put_back(id, queue, user)
  redis.call('HSET', 'agent:task:' .. id, 'state', 'pending', 'place', 'queue')
  redis.call('HDEL', 'agent:task:' .. id, 'owner')
  push('LPUSH', queue, id)
  if user then
    redis.call('HINCRBY', 'agent:runnable:' .. queue, user, 1)
  end
end

-- Move the user's next waiting task to the list.
local function refill(queue, user)
  local waiting_key = 'agent:waiting:' .. queue .. ':' .. user
  local id = redis.call('LPOP', waiting_key)
  while id do
    local task_key = 'agent:task:' .. id
    local task = redis.call('HMGET', task_key, 'state', 'place')
    local is_next = task[1] == 'pending' and task[2] == 'waiting'
    looked = looked + 1
    -- After LOOKED ended ones the next of them is put on the list: the script that pops it goes on from there.
    if is_next or (task[1] and looked > LOOKED) then
      redis.call('HSET', task_key, 'place', 'queue')
      push('RPUSH', queue, id)
      redis.call('HINCRBY', 'agent:runnable:' .. queue, user, 1)
      return
    end
    id = redis.call('LPOP', waiting_key)
  end
end

-- Note that an id of the user has left the list. Returns whether it was the user's last one there.
local function taken(queue, user)
  local runnable_key = 'agent:runnable:' .. queue
  if redis.call('HINCRBY', runnable_key, user, -1) <= 0 then
    redis.call('HDEL', runnable_key, user)
    return true
  end
  return false
end

-- Note that a task of the user has stopped running; a user held back by the cap gets a turn.
local function stopped_running(user)
  if not user then
    return
  end
  if redis.call('HINCRBY', 'agent:in_flight', user, -1) <= 0 then
    redis.call('HDEL', 'agent:in_flight', user)
  end
  local capped_key = 'agent:capped:' .. user
  local queues = redis.call('SORT', capped_key, 'ALPHA')
  for _, queue in ipairs(queues) do
    if redis.call('HEXISTS', 'agent:runnable:' .. queue, user) == 0 then
      refill(queue, user)
    end
  end
  if #queues > 0 then
    redis.call('DEL', capped_key)
  end
end

-- Make the next task of an ended task's thread runnable. One that ends while parked is skipped later.
local function leave_thread(id, thread)
  local thread_key = thread and 'agent:thread:' .. thread
  if not thread or redis.call('LINDEX', thread_key, 0) ~= id then
    return
  end
  redis.call('LPOP', thread_key)
  local next_id = redis.call('LINDEX', thread_key, 0)
  while next_id do
    local task = redis.call('HMGET', 'agent:task:' .. next_id, 'state', 'place', 'queue', 'user')
    if task[1] == 'pending' and task[2] == 'parked' and task[3] and task[4] then
      redis.pcall('HSET', 'rq:job:' .. next_id, 'status', 'queued')
      return enqueue(next_id, task[3], task[4])
    end
    redis.call('LPOP', thread_key)
    next_id = redis.call('LINDEX', thread_key, 0)
  end
end
