#!lua flags=no-writes
-- Read whether a task of a thread has not ended.
--
-- Uses shared/queue/functions/thread_rows: is_busy
--
-- ARGV[1] thread
-- Returns 1 | 0 all have ended
return is_busy(ARGV[1]) and 1 or 0
