#!lua flags=allow-oom
-- Save what a run has reached on a thread: what nodes wrote, and checkpoints with the values that they add.
--
-- The writes of a checkpoint may come before it. Whether a write is a repetition is decided on reading. What was appended
-- is copied with each further write, so it is continued in another field from a certain size on.
--
-- Uses worker/state/saver/scripts/fence: has_begun, keep, longer
-- Uses worker/state/saver/scripts/names: prefix_of, range_end
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- KEYS[3] agent:run_threads:<run>      set   threads of a run; not given if the writer names no run
-- ARGV[1] fencing token, or empty
-- ARGV[2] TTL (ms), at least
-- ARGV[3] thread
-- ARGV[4] of how many checkpoints writes follow
-- ARGV[5..] of each the name of the checkpoint and the writes; then of each checkpoint its name, its record, how many
--   fields of values are to be there already, how many values it adds, these fields, and pairs of a field and a value
-- Returns {1, then of each checkpoint how many its namespace has, or -1: a field is missing, it was not written} | {0} fenced
--   off: nothing was written
local state_key, index_key, run_key = KEYS[1], KEYS[2], KEYS[3]
local token, ttl_ms, thread = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local FULL_BYTES = 65536

if not has_begun(state_key, token) then
  return {0}
end
local at = 5 + 2 * ARGV[4]
for i = 5, at - 1, 2 do
  local name = ARGV[i]
  local field = 'w' .. name
  local before = redis.call('HGET', state_key, field) or ''
  if #before >= FULL_BYTES then
    local last = math.max(tonumber(redis.call('HGET', state_key, 'n' .. name) or '') or 0, 1)
    field = 's' .. last .. ':' .. name
    if redis.call('HSTRLEN', state_key, field) >= FULL_BYTES then
      last = last + 1
      field = 's' .. last .. ':' .. name
    end
    redis.call('HSET', state_key, 'n' .. name, last)
    before = redis.call('HGET', state_key, field) or ''
  end
  redis.call('HSET', state_key, field, before .. ARGV[i + 1])
end
local reply, is_new = {1}, false
while at <= #ARGV do
  local name, record, known, added = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local first = at + 4 + known
  at = first + 2 * added
  local missing = 0
  for i = first - known, first - 1 do
    missing = missing + 1 - redis.call('HEXISTS', state_key, ARGV[i])
  end
  if missing > 0 then
    reply[#reply + 1] = -1
  else
    for i = first, at - 1, 2 do
      redis.call('HSET', state_key, ARGV[i], ARGV[i + 1])
    end
    redis.call('HSET', state_key, 'c' .. name, record)
    redis.call('ZADD', index_key, 0, name)
    local prefix = prefix_of(name)
    local number = redis.call('ZLEXCOUNT', index_key, '[' .. prefix, '(' .. range_end(prefix))
    reply[#reply + 1], is_new = number, is_new or number == 1
  end
end
is_new = is_new or redis.call('PTTL', state_key) < ttl_ms -- or the index is
if is_new then
  keep(state_key, index_key, longer(ttl_ms))
end
if run_key and (redis.call('SADD', run_key, thread) == 1 or is_new or redis.call('PTTL', run_key) < ttl_ms) then
  redis.call('PEXPIRE', run_key, longer(ttl_ms))
end
return reply
