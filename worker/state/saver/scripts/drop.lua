#!lua flags=allow-oom
-- Drop checkpoints with their writes, and values that no other checkpoint names, unless the thread has changed since the
-- caller read its headers.
--
-- Uses worker/state/saver/scripts/fence: is_outdated
-- Uses worker/state/saver/scripts/names: further_fields
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- ARGV[1] fencing token, or empty
-- ARGV[2] how many checkpoints the caller knows
-- ARGV[3] how many to drop
-- ARGV[4..] their names, then fields of values
-- Returns 1 dropped | 2 the thread has changed | 0 fenced off
local state_key, index_key = KEYS[1], KEYS[2]
local token, known, dropped = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

if is_outdated(state_key, token) then
  return 0
end
if redis.call('ZCARD', index_key) ~= known then
  return 2
end
for i = 4, #ARGV do
  local name = ARGV[i]
  if i > 3 + dropped then
    redis.call('HDEL', state_key, name)
  else
    for k = 1, further_fields(state_key, name) do
      redis.call('HDEL', state_key, 's' .. k .. ':' .. name)
    end
    redis.call('HDEL', state_key, 'c' .. name, 'w' .. name, 'n' .. name)
    redis.call('ZREM', index_key, name)
  end
end
return 1
