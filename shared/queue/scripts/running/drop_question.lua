#!lua flags=allow-oom
-- Record that a task has dropped the question that its thread showed: it runs with new input instead of an answer.
-- Asked again, as by a later attempt, it returns what was recorded.
--
-- Uses shared/queue/functions/fence: fence
--
-- KEYS[1] agent:task:<id>          hash  the task's state
-- KEYS[2] agent:question:<thread>  hash  `task`: the task that asked last
-- ARGV[1] epoch
-- ARGV[2] worker
-- ARGV[3] 1 if the thread shows a question that the task drops, 0 to read what was recorded
-- Returns the task that asked; empty: none, or another worker owns the task
local task_key, question_key, epoch, worker = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local drops = ARGV[3] == '1'

local is_owner, task = fence(task_key, epoch, worker, 'dropped')
if not is_owner then
  return ''
end
local dropped = task[1] or (drops and redis.call('HGET', question_key, 'task')) or ''
if dropped ~= '' then
  redis.call('HSET', task_key, 'dropped', dropped)
end
return dropped
