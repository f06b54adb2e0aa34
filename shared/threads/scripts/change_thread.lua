#!lua flags=allow-oom
-- Note that an operation has changed the state of a thread.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/thread_rows: expire_state, list_end
--
-- ARGV[1] thread
-- ARGV[2] tenant
-- ARGV[3] interrupted if nodes are to run next, else success
-- ARGV[4] now (ms) in tests, else empty
-- Returns 1
list_end(ARGV[1], ARGV[2], ARGV[3], clock(ARGV[4]))
expire_state(ARGV[1])
return 1
