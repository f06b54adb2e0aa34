-- Write a node's pending writes and set their TTL, atomically. A repeated write counts once, the first; of a special one,
-- whose index is below 0, the last.
--
-- KEYS[1] checkpoint:<thread>:<namespace>:<id>       JSON  the checkpoint that the writes belong to
-- KEYS[2] write_keys_zset:<thread>:<namespace>:<id>  zset  key of a write -> its index
-- ARGV[1] time to live (ms)
-- ARGV[2..] pairs of the write's key (checkpoint_write:<thread>:<namespace>:<id>:<node's task>:<index>) and the write (JSON)
-- Returns the number of writes
local checkpoint_key, registry_key = KEYS[1], KEYS[2]
local ttl_ms = tonumber(ARGV[1])

local count = 0
for i = 2, #ARGV, 2 do
  local key, document = ARGV[i], ARGV[i + 1]
  if key:find(':%-%d+$') or redis.call('EXISTS', key) == 0 then
    redis.call('JSON.SET', key, '$', document)
  end
  redis.call('PEXPIRE', key, ttl_ms)
  redis.call('ZADD', registry_key, count, key)
  count = count + 1
end
redis.call('PEXPIRE', registry_key, ttl_ms)
-- JSON.MERGE would recreate an expired checkpoint, incomplete and without a TTL.
if redis.call('EXISTS', checkpoint_key) == 1 then
  redis.call('JSON.MERGE', checkpoint_key, '$', '{"has_writes":true}')
end
return count
