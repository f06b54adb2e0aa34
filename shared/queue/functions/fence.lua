-- The fence: refuses a worker whose attempt of a task has ended, or was taken over by a later attempt.

-- Check the attempt and read `...`, fields of the task's hash. Returns whether the attempt still runs, the fields, and
-- the task's state, which is false when the task has moved on to another attempt.
local function fence(task_key, epoch, worker, ...)
  local task = redis.call('HMGET', task_key, 'state', 'epoch', 'owner', ...)
  local is_latest = task[2] == epoch and task[3] == worker
  return is_latest and task[1] == 'running', {unpack(task, 4)}, is_latest and task[1]
end
