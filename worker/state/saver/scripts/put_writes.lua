#!lua flags=allow-oom
-- Append what a node wrote to the writes of a checkpoint, which may not be there yet, and renew the thread's TTL.
--
-- Whether a write is a repetition is decided on reading. What was appended is copied with each further write, so it is
-- continued in another field from a certain size on.
--
-- Uses worker/state/saver/scripts/fence: has_begun, keep, note_run
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- KEYS[3] agent:run_threads:<run>      set   threads of a run; not given if the writer names no run
-- ARGV[1] fencing token, or empty
-- ARGV[2] TTL (ms)
-- ARGV[3] name of the checkpoint
-- ARGV[4] the writes
-- ARGV[5] thread
-- Returns 1 written | 0 fenced off
local state_key, index_key, run_key = KEYS[1], KEYS[2], KEYS[3]
local token, ttl_ms, name, rows, thread = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local FULL_BYTES = 65536

if not has_begun(state_key, token) then
  return 0
end
local field = 'w' .. name
if redis.call('HSTRLEN', state_key, field) >= FULL_BYTES then
  local last = math.max(tonumber(redis.call('HGET', state_key, 'n' .. name) or '') or 0, 1)
  field = 's' .. last .. ':' .. name
  if redis.call('HSTRLEN', state_key, field) >= FULL_BYTES then
    last = last + 1
    field = 's' .. last .. ':' .. name
  end
  redis.call('HSET', state_key, 'n' .. name, last)
end
redis.call('HSET', state_key, field, (redis.call('HGET', state_key, field) or '') .. rows)
keep(state_key, index_key, ttl_ms)
note_run(run_key, thread, ttl_ms)
return 1
