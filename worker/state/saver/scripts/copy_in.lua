-- Add fields, then names of checkpoints, to a thread that is being copied. Before it has names it has no checkpoints.
--
-- Uses worker/state/saver/scripts/fence: is_outdated, keep
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- ARGV[1] fencing token, or empty
-- ARGV[2] TTL (ms)
-- ARGV[3] how many names there are
-- ARGV[4..] the names, then pairs of a field and its value
-- Returns 1 | 0 fenced off
local state_key, index_key = KEYS[1], KEYS[2]
local token, ttl_ms, names = ARGV[1], ARGV[2], tonumber(ARGV[3])

if is_outdated(state_key, token) then
  return 0
end
for i = 4, 3 + names do
  redis.call('ZADD', index_key, 0, ARGV[i])
end
for i = 4 + names, #ARGV, 2 do
  redis.call('HSET', state_key, ARGV[i], ARGV[i + 1])
end
keep(state_key, index_key, ttl_ms)
return 1
