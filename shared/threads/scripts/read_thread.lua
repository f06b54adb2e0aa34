#!lua flags=no-writes
-- Read what is listed of a thread, whether a task of it has not ended, and whether it shows a question.
--
-- Uses shared/queue/functions/records/thread_rows: is_busy
--
-- KEYS[1] agent:thread_row:<thread>  hash  what is listed of it
-- KEYS[2] agent:question:<thread>    hash  its question, if there is one
-- ARGV[1] thread
-- Returns {fields and values of the row, empty if it is not listed, 1 while a task has not ended else 0, 1 if it asks else 0}
local row_key, question_key = KEYS[1], KEYS[2]
local thread = ARGV[1]

local row = redis.pcall('HGETALL', row_key)
if row.err or #row == 0 then
  return {{}, 0, 0}
end
return {row, is_busy(thread) and 1 or 0, redis.pcall('HEXISTS', question_key, 'since') == 1 and 1 or 0}
