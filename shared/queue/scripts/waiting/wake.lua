#!lua flags=allow-oom
-- Mark the sets of things that were freed: their tasks go on, a few at a time. Things for which nothing waits are left out.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/marks: MOST_TASKS, WAITS, mark, mark_of
--
-- ARGV[1] number of tasks that may go on, 0 for all
-- ARGV[2] now (ms) in tests, else empty
-- ARGV from the 3rd on: things
-- Returns the number of sets that were marked
local limit, given_ms = tonumber(ARGV[1]), ARGV[2]

local things, marked = {unpack(ARGV, 3)}, 0
for i, marked_at in ipairs(redis.call('ZMSCORE', WAITS, unpack(things))) do
  if marked_at then
    local now_ms, thing = clock(given_ms), things[i]
    local _, before = mark_of(thing)
    local is_marked = tonumber(marked_at) <= now_ms
    if not is_marked or (before > 0 and limit == 0) then
      mark(thing, now_ms, limit)
    elseif before > 0 then
      mark(thing, marked_at, math.min(before + limit, MOST_TASKS))
    end
    marked = marked + 1
  end
end
return marked
