-- Check that a worker still owns a task and may go on with it, before every model call.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/fence: fence
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- ARGV[1] epoch
-- ARGV[2] worker
-- ARGV[3] now (ms) in tests, else empty
-- Returns 1 yes | 2 it is to be cancelled | 3 its deadline has passed | 0 another worker owns it, or it has ended
local task_key, epoch, worker, now_ms = KEYS[1], ARGV[1], ARGV[2], clock(ARGV[3])

local is_owner, task = fence(task_key, epoch, worker, 'cancel', 'deadline')
if not is_owner then
  return 0
end
local cancel, deadline = unpack(task)
if not cancel and (tonumber(deadline) or 0) <= now_ms then
  return 3
end
return cancel and 2 or 1
