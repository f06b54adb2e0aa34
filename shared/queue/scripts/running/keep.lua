#!lua flags=allow-oom
-- Record what a running task waits for while its worker keeps its memory, for those who ask where it is.
--
-- Uses shared/queue/functions/fence: fence
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- ARGV[1] epoch
-- ARGV[2] worker
-- ARGV[3] thing that it waits for; empty: it goes on
-- Returns 1 recorded | 0 another worker owns it, or it has ended
local task_key, epoch, worker, thing = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

if not fence(task_key, epoch, worker) then
  return 0
end
-- With the epoch, because the next attempt does not wait.
redis.call('HSET', task_key, 'kept_for', thing ~= '' and epoch .. ':' .. thing or '')
return 1
