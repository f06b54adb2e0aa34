#!lua flags=allow-oom
-- Write a checkpoint with the values that it adds, and renew the TTL of its thread.
--
-- Uses worker/state/saver/scripts/fence: has_begun, keep, note_run
-- Uses worker/state/saver/scripts/names: prefix_of, range_end
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- KEYS[3] agent:run_threads:<run>      set   threads of a run; not given if the checkpoint names no run
-- ARGV[1] fencing token, or empty
-- ARGV[2] TTL (ms)
-- ARGV[3] name of the checkpoint
-- ARGV[4] its record
-- ARGV[5] thread
-- ARGV[6] how many fields of values are to be there already
-- ARGV[7..] these fields, then pairs of a field and a value to write
-- Returns {number of checkpoints in the namespace} | {0} fenced off | {-1, fields that are missing}; then nothing was written
local state_key, index_key, run_key = KEYS[1], KEYS[2], KEYS[3]
local token, ttl_ms, name, record, thread, known = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

if not has_begun(state_key, token) then
  return {0}
end
local missing = {-1}
for i = 7, 6 + known do
  if redis.call('HEXISTS', state_key, ARGV[i]) == 0 then
    missing[#missing + 1] = ARGV[i]
  end
end
if #missing > 1 then
  return missing
end
for i = 7 + known, #ARGV, 2 do
  redis.call('HSET', state_key, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', state_key, 'c' .. name, record)
redis.call('ZADD', index_key, 0, name)
keep(state_key, index_key, ttl_ms)
note_run(run_key, thread, ttl_ms)
local prefix = prefix_of(name)
return {redis.call('ZLEXCOUNT', index_key, '[' .. prefix, '(' .. range_end(prefix))}
