#!lua flags=allow-oom
-- Note that an operation has changed the state of a thread.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/records/thread_rows: ROW, expire_state, list_again, list_end
--
-- ARGV[1] thread
-- ARGV[2] tenant
-- ARGV[3] interrupted if nodes are to run next, else success
-- ARGV[4] now (ms) in tests, else empty
-- Returns 1
local thread, tenant = ARGV[1], ARGV[2]

expire_state(thread, list_end(thread, tenant, ARGV[3], nil, clock(ARGV[4])))
list_again(thread, tenant, unpack(redis.pcall('HMGET', ROW .. thread, 'graph', 'terms')))
return 1
