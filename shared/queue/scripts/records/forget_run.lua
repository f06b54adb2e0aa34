#!lua flags=allow-oom
-- Forget a run that has ended: its record, its result and its events. Its id stays remembered, so that it is not run again.
--
-- Uses shared/connections/clock: clock
-- Uses shared/queue/functions/records/records: forget_record, letter_of
-- Uses shared/queue/functions/records/remembered_ids: recall_id
-- Uses shared/queue/functions/records/thread_runs: remove_run
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- KEYS[2] agent:result:<id>    string  the result document
-- KEYS[3] agent:events:<id>    stream  its events
-- ARGV[1] id
-- ARGV[2] its thread, empty for none
-- ARGV[3] now (ms) in tests, else empty
-- Returns 1 | 0 it has not ended, or is unknown
local task_key, result_key, events_key = KEYS[1], KEYS[2], KEYS[3]
local id, thread, now_ms = ARGV[1], ARGV[2], clock(ARGV[3])

local state, number = unpack(redis.call('HMGET', task_key, 'state', 'run'))
if state and letter_of(state) then
  redis.call('HSET', task_key, 'deleted', 1)
elseif not state then
  local of_id = {recall_id(id, now_ms)}
  state, number = of_id[1], of_id[3]
end
if not letter_of(state) then
  return 0
end
forget_record(id, number and tostring(number), thread)
if thread ~= '' then
  remove_run(thread, id)
end
redis.call('DEL', result_key, events_key)
return 1
