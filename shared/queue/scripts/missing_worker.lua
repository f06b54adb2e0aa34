#!lua flags=no-writes
-- Tell what a pending task waits for when no live worker could run it.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/routing: route
--
-- KEYS[1] agent:task:<id>   hash   the task's state
-- ARGV[1] now (ms) in tests, else empty
-- Returns {worker | queue | graph, or empty: it does not wait for a worker; its queue; its graph, as in the names of queues}
local task_key, now_ms = KEYS[1], clock(ARGV[1])

local state, queue, graph = unpack(redis.call('HMGET', task_key, 'state', 'queue', 'graph'))
if state ~= 'pending' or not (queue and graph) then
  return {'', '', ''}
end
queue = queue:match('^[^:]*')
local _, missing = route(queue, graph, now_ms)
return {missing, queue, graph}
