-- Record the answer of a model, if the caller still owns the task.
--
-- Uses shared/connections/clock: clock, natural
-- Uses shared/queue/functions/fence: fence
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] agent:journal:<id>   hash    position -> answer
-- ARGV[1] epoch
-- ARGV[2] worker
-- ARGV[3] position
-- ARGV[4] answer
-- ARGV[5] how long it is kept after the task's deadline (ms)
-- Returns 1 recorded | 0 another worker owns the task, or it has ended
local task_key, journal_key = KEYS[1], KEYS[2]
local epoch, worker, position, answer, grace_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

local is_owner, task = fence(task_key, epoch, worker, 'deadline')
if not is_owner then
  return 0
end
local now_ms = clock('')
redis.call('HSET', journal_key, position, answer)
redis.call('PEXPIREAT', journal_key, math.max(natural(task[1], now_ms), now_ms) + grace_ms)
return 1
