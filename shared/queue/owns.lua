-- Say whether a worker still owns a task and may go on with it: asked before every model call.
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- ARGV[1] epoch
-- ARGV[2] worker
-- Returns 1 yes | 2 it is to be cancelled | 0 another worker owns it, or it has ended
local epoch, worker = ARGV[1], ARGV[2]

local task = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'owner', 'cancel')
if task[1] ~= 'running' or task[2] ~= epoch or task[3] ~= worker then
  return 0
end
return task[4] and 2 or 1
