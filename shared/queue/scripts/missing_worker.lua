#!lua flags=no-writes
-- Tell what a pending task waits for when no live worker could run it, or when its thread shows a question.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/routing: route
-- Uses shared/queue/functions/questions: is_asking
--
-- KEYS[1] agent:task:<id>   hash   the task's state
-- ARGV[1] now (ms) in tests, else empty
-- Returns {worker | queue | graph | question, or empty: it waits for none of them; its queue; its graph, as in the names of
--   queues}
local task_key, now_ms = KEYS[1], clock(ARGV[1])

local state, queue, graph, place, thread = unpack(redis.call('HMGET', task_key, 'state', 'queue', 'graph', 'place', 'thread'))
if state ~= 'pending' or not (queue and graph) then
  return {'', '', ''}
end
queue = queue:match('^[^:]*')
local _, missing = route(queue, graph, now_ms)
if missing == '' and place == 'parked' and thread and is_asking(thread) then
  missing = 'question'
end
return {missing, queue, graph}
