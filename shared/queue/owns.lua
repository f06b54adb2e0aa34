-- Check that a worker still owns a task and may go on with it, before every model call.
--
-- Uses shared/queue/fence: fence
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- ARGV[1] epoch
-- ARGV[2] worker
-- Returns 1 yes | 2 it is to be cancelled | 0 another worker owns it, or it has ended
local task_key, epoch, worker = KEYS[1], ARGV[1], ARGV[2]

local is_owner, task = fence(task_key, epoch, worker, 'cancel')
if not is_owner then
  return 0
end
local cancel = task[1]
return cancel and 2 or 1
