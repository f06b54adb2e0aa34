-- Add events to a task's stream, each once, if the caller still owns the task.
--
-- Uses shared/connections/clock: whole
-- Uses shared/queue/functions/fence: fence
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] agent:events:<id>    stream  `claim` made it and gave it its time to live
-- ARGV[1] epoch
-- ARGV[2] worker
-- ARGV[3] how many events of this attempt the caller knows to be written
-- ARGV[4] longest stream (entries, about)
-- ARGV from the 5th on: type and data (JSON) of the events after those, in turn
-- Returns how many events of this attempt are written now | -1 another worker owns the task, or it has ended
local task_key, events_key = KEYS[1], KEYS[2]
local epoch, worker, known, longest = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local FIRST = 5 -- the slot of the first event's type

local is_owner, task = fence(task_key, epoch, worker, 'events')
if not is_owner then
  return -1
end

-- The reply of an earlier call may have been lost: what it wrote is not written again.
local counted_epoch, counted = (task[1] or ''):match('^(%d+):(%d+)$')
local written = counted_epoch == epoch and tonumber(counted) or 0
for i = FIRST + 2 * (written - known), #ARGV, 2 do
  redis.call('XADD', events_key, 'NOMKSTREAM', 'MAXLEN', '~', longest, '*', 'type', ARGV[i], 'data', ARGV[i + 1])
end
local total = whole(known + (#ARGV - FIRST + 1) / 2)
redis.call('HSET', task_key, 'events', epoch .. ':' .. total)
return tonumber(total)
