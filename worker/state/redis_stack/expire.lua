-- Set the TTL of all keys of a thread.
--
-- Uses worker/state/redis_stack/thread_keys: expire_checkpoint
--
-- KEYS[1] agent:checkpoints:<thread>  zset  "<namespace>:<id>" -> when it expires (ms)
-- ARGV[1] thread
-- ARGV[2] time to live from now (ms); 0 deletes
-- Returns the number of checkpoints found
local index_key = KEYS[1]
local thread, ttl_ms = ARGV[1], ARGV[2]

local members = redis.call('ZRANGE', index_key, 0, -1)
for _, member in ipairs(members) do
  expire_checkpoint(thread, member, ttl_ms)
end
redis.call('PEXPIRE', index_key, ttl_ms)
return #members
