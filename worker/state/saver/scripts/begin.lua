#!lua flags=allow-oom
-- Begin a task on a thread: from here on no write with a lower token is taken. Returns what the task begins on.
--
-- Uses worker/state/saver/scripts/fence: is_outdated, keep, longer
-- Calls worker/state/saver/scripts/read
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- ARGV[1] fencing token, or empty
-- ARGV[2] TTL (ms), at least
-- ARGV[3] name of the checkpoint to read, as `read` takes it; empty: none
-- ARGV[4] the most bytes of it that are returned
-- Returns {2 it has checkpoints | 1 it has none, then what `read` returns, or for more bytes its name} | {0} fenced off
local state_key, index_key = KEYS[1], KEYS[2]
local token, ttl_ms, name, most_bytes = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

if is_outdated(state_key, token) then
  return {0}
end
keep(state_key, index_key, longer(ttl_ms))
if redis.call('EXISTS', index_key) == 0 then
  return {1}
end
if name == '' then
  return {2}
end
local found, bytes = read(KEYS, {1, 0, most_bytes, name})
if bytes > most_bytes then
  return {2, found[1][1]}
end
return {2, unpack(found)}
