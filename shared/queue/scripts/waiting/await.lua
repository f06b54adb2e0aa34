#!lua flags=allow-oom
-- Record that a thing is refused to a task, which may wait for it next. Part of the script that refuses it, so that
-- nothing that frees the thing from then on is missed. One task may try it when the time is over.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/marks: mark, mark_of
--
-- ARGV[1] thing
-- ARGV[2] how long it is refused (ms)
-- ARGV[3] now (ms) in tests, else empty
-- Returns 1
local thing, wait_ms, now_ms = ARGV[1], tonumber(ARGV[2]), clock(ARGV[3])

local marked_at, limit = mark_of(thing)
-- A few tasks that were let go by now, perhaps for less than was refused here, may try all the same.
if limit == 0 or not marked_at or marked_at > now_ms then
  mark(thing, now_ms + wait_ms, 1)
end
return 1
