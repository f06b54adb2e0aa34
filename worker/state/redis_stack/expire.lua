-- Set the TTL of all keys of a thread.
--
-- KEYS[1] agent:checkpoints:<thread>  zset  "<namespace>:<id>" -> when it expires (ms)
-- ARGV[1] thread
-- ARGV[2] time to live from now (ms); 0 deletes
-- Returns the number of checkpoints found
local index_key = KEYS[1]
local thread, ttl_ms = ARGV[1], ARGV[2]

local members = redis.call('ZRANGE', index_key, 0, -1)
for _, member in ipairs(members) do
  local name = thread .. ':' .. member
  local registry_key = 'write_keys_zset:' .. name
  for _, write_key in ipairs(redis.call('ZRANGE', registry_key, 0, -1)) do
    redis.call('PEXPIRE', write_key, ttl_ms)
  end
  redis.call('PEXPIRE', registry_key, ttl_ms)
  redis.call('PEXPIRE', 'checkpoint:' .. name, ttl_ms)
  redis.call('PEXPIRE', 'checkpoint_latest:' .. thread .. ':' .. member:match('^(.*):'), ttl_ms)
end
redis.call('PEXPIRE', index_key, ttl_ms)
return #members
