#!lua flags=allow-oom
-- Note what a Redis of the checkpoints' own uses, once an hour; the sweeper does it for that of the queue.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/memory: note_memory
--
-- ARGV[1] now (ms) in tests, else empty
-- Returns 1
note_memory(clock(ARGV[1]))
return 1
