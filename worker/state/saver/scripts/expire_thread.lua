#!lua flags=allow-oom
-- Set the TTL of a thread, or delete it. Of a deleted thread the token stays for an hour, so that no write that is late
-- brings the thread back.
--
-- Uses shared/connections/clock: whole
-- Uses worker/state/saver/scripts/fence: is_outdated, keep
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- ARGV[1] fencing token, or empty
-- ARGV[2] TTL (ms); 0 deletes
-- Returns the number of checkpoints | -1 fenced off
local state_key, index_key = KEYS[1], KEYS[2]
local token, ttl_ms = ARGV[1], tonumber(ARGV[2])
local LATE_MS = 3600000

if is_outdated(state_key, token) then
  return -1
end
local count = redis.call('ZCARD', index_key)
if ttl_ms > 0 then
  keep(state_key, index_key, whole(ttl_ms))
  return count
end
local last = tonumber(redis.call('HGET', state_key, 't') or '')
redis.call('UNLINK', state_key, index_key)
if last then
  -- A caller without a token outranks the task that ran last.
  redis.call('HSET', state_key, 't', whole(token == '' and last + 1 or last))
  redis.call('PEXPIRE', state_key, LATE_MS)
end
return count
