#!lua flags=no-writes
-- List runs of a thread, the newest first.
--
-- Uses shared/queue/functions/records/records: line_of_task
-- Uses shared/queue/functions/records/thread_runs: PARTS, RUNS
--
-- ARGV[1] thread
-- ARGV[2] how many of the newest are left out
-- ARGV[3] n, runs at most
-- Returns {id, first line of the record, what its client said} of each; the line is empty if nothing is known of it any more
local thread, start, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local parts = redis.pcall('LRANGE', RUNS .. thread, start * PARTS, (start + n) * PARTS - 1)
local found = {}
for i = 1, #parts, PARTS do
  local id, line, about = parts[i], parts[i + 1] or '', parts[i + 2] or ''
  found[#found + 1] = {id, line ~= '' and line or line_of_task(id) or '', about}
end
return found
