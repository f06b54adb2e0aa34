-- The keys of a checkpoint.

-- Set the TTL of all keys of a checkpoint, which `member` names as "<namespace>:<id>". Returns whether it is there.
local function expire_checkpoint(thread, member, ttl_ms)
  local name = thread .. ':' .. member
  local registry_key = 'write_keys_zset:' .. name
  for _, write_key in ipairs(redis.call('ZRANGE', registry_key, 0, -1)) do
    redis.call('PEXPIRE', write_key, ttl_ms)
  end
  redis.call('PEXPIRE', registry_key, ttl_ms)
  redis.call('PEXPIRE', 'checkpoint_latest:' .. thread .. ':' .. member:match('^(.*):'), ttl_ms)
  return redis.call('PEXPIRE', 'checkpoint:' .. name, ttl_ms) == 1
end
