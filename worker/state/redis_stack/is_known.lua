#!lua flags=no-writes
-- Ask whether a thread has checkpoints.
--
-- KEYS[1] agent:checkpoints:<thread>  zset  "<namespace>:<id>" -> when it expires (ms)
-- Returns 1 it has | 0 it has none
return redis.call('EXISTS', KEYS[1])
