-- Delete a checkpoint with its pending writes.
--
-- KEYS[1] agent:checkpoints:<thread>                 zset    "<namespace>:<id>" -> when it expires (ms)
-- KEYS[2] checkpoint:<thread>:<namespace>:<id>       JSON    the checkpoint
-- KEYS[3] write_keys_zset:<thread>:<namespace>:<id>  zset    key of a write -> its index
-- KEYS[4] checkpoint_latest:<thread>:<namespace>     string  key of the newest checkpoint
-- ARGV[1] "<namespace>:<id>"
-- Returns 1
local index_key, checkpoint_key, registry_key, latest_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

for _, write_key in ipairs(redis.call('ZRANGE', registry_key, 0, -1)) do
  redis.call('UNLINK', write_key)
end
redis.call('UNLINK', checkpoint_key, registry_key)
redis.call('ZREM', index_key, ARGV[1])
if redis.call('GET', latest_key) == checkpoint_key then
  redis.call('UNLINK', latest_key)
end
return 1
