#!lua flags=allow-oom
-- Begin a task on a thread: what the thread has is kept for as long as what the task will write. A delta channel is
-- rebuilt from old checkpoints.
--
-- Uses shared/connections/clock: clock, whole
-- Uses worker/state/redis_stack/thread_keys: expire_checkpoint
--
-- KEYS[1] agent:checkpoints:<thread>  zset  "<namespace>:<id>" -> when it expires (ms)
-- ARGV[1] thread
-- ARGV[2] time to live (ms)
-- Returns {1 it has checkpoints | 0 it has none, 1 some are still to be renewed: call again | 0}
local index_key = KEYS[1]
local thread, ttl_ms = ARGV[1], tonumber(ARGV[2])
local MOST, LATE_MS = 200, 1000

local expires = clock('') + ttl_ms
local due = redis.call('ZRANGE', index_key, '-inf', '(' .. whole(expires - LATE_MS), 'BYSCORE', 'LIMIT', 0, MOST)
for _, member in ipairs(due) do
  if expire_checkpoint(thread, member, ttl_ms) then
    redis.call('ZADD', index_key, whole(expires), member)
  else
    redis.call('ZREM', index_key, member)
  end
end
redis.call('PEXPIRE', index_key, ttl_ms)
return {redis.call('EXISTS', index_key), #due == MOST and 1 or 0}
