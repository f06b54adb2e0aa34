-- Record that an attempt at a task begins: earlier ones put nothing any more.
--
-- Uses worker/state/store/scripts/newest_attempt: is_superseded
--
-- KEYS[1] agent:store_epoch:<task>  string  highest epoch of the task that was seen
-- ARGV[1] epoch
-- Returns 1 recorded | 0 a later attempt has been seen
if is_superseded(KEYS[1], ARGV[1]) then
  return 0
end
return 1
