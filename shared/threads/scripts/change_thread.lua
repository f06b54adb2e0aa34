#!lua flags=allow-oom
-- Note that an operation has changed the state of a thread. Without a node to run next it shows no question any more.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/questions: settle_question
-- Uses shared/queue/functions/records/thread_rows: ROW, expire_state, list_again, list_end
--
-- ARGV[1] thread
-- ARGV[2] tenant
-- ARGV[3] interrupted if nodes are to run next, else success
-- ARGV[4] the graph that has changed it, which is that of a thread without any
-- ARGV[5] now (ms) in tests, else empty
-- Returns 1
local thread, tenant, state, graph, now_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], clock(ARGV[5])

if redis.pcall('HEXISTS', ROW .. thread, 'created') == 1 then
  redis.pcall('HSETNX', ROW .. thread, 'graph', graph)
end
if state ~= 'interrupted' then
  settle_question('', thread, '', 0, 0, now_ms)
end
expire_state(thread, list_end(thread, tenant, state, nil, now_ms))
list_again(thread, tenant, unpack(redis.pcall('HMGET', ROW .. thread, 'graph', 'terms')))
return 1
