#!lua flags=allow-oom
-- Mark the sets of all things of a kind that were freed, some at a time: their tasks go on.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/marks: WAITS, mark
--
-- ARGV[1] how their names begin
-- ARGV[2] where to go on: the cursor that the last call returned, 0 at first
-- ARGV[3] now (ms) in tests, else empty
-- Returns the cursor of the next call, 0 after the last one
local prefix, cursor, now_ms = ARGV[1], ARGV[2], clock(ARGV[3])
local LOOKED = 200

local found
cursor, found = unpack(redis.call('ZSCAN', WAITS, cursor, 'MATCH', prefix .. '*', 'COUNT', LOOKED))
for i = 1, #found, 2 do
  mark(found[i], now_ms, 0)
end
return cursor
