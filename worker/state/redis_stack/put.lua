-- Write a checkpoint, point its namespace's `latest` key to it, and set the TTL of all keys, atomically.
--
-- Uses shared/connections/clock: clock
--
-- KEYS[1] checkpoint:<thread>:<namespace>:<id>   JSON    the checkpoint
-- KEYS[2] checkpoint_latest:<thread>:<namespace> string  key of the newest checkpoint
-- KEYS[3] agent:checkpoints:<thread>             zset    "<namespace>:<id>" -> when it expires (ms)
-- ARGV[1] the checkpoint (JSON)
-- ARGV[2] "<namespace>:<id>"
-- ARGV[3] time to live (ms)
-- Returns 1
local checkpoint_key, latest_key, index_key = KEYS[1], KEYS[2], KEYS[3]
local document, member, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

redis.call('JSON.SET', checkpoint_key, '$', document)
redis.call('PEXPIRE', checkpoint_key, ttl_ms)
redis.call('SET', latest_key, checkpoint_key, 'PX', ttl_ms)
local now_ms = clock('')
redis.call('ZREMRANGEBYSCORE', index_key, '-inf', now_ms)
redis.call('ZADD', index_key, now_ms + ttl_ms, member)
redis.call('PEXPIRE', index_key, ttl_ms)
return 1
