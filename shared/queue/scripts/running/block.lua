#!lua flags=allow-oom
-- Record that a task blocks the event loop of its worker, which may cost the worker its lease. A task that has this mark
-- and a crash runs isolated.
--
-- Uses shared/queue/functions/fence: fence
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- ARGV[1] epoch
-- ARGV[2] worker
-- ARGV[3] line that blocks (file:line)
-- Returns 1 recorded | 0 another worker owns it, or it has ended
local task_key, epoch, worker, line = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

if not fence(task_key, epoch, worker) then
  return 0
end
redis.call('HSET', task_key, 'blocked_in', line)
return 1
