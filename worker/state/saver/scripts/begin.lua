#!lua flags=allow-oom
-- Begin a task on a thread: from here on no write with a lower token is taken. Returns whether the thread has checkpoints.
--
-- Uses worker/state/saver/scripts/fence: is_outdated, keep
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- ARGV[1] fencing token, or empty
-- ARGV[2] TTL (ms)
-- Returns 2 it has checkpoints | 1 it has none | 0 fenced off
local state_key, index_key = KEYS[1], KEYS[2]
local token, ttl_ms = ARGV[1], ARGV[2]

if is_outdated(state_key, token) then
  return 0
end
keep(state_key, index_key, ttl_ms)
return 1 + redis.call('EXISTS', index_key)
