#!lua flags=allow-oom
-- Leave the fleet in order. A worker that still owns tasks stays, so that they are reaped when its lease ends.
--
-- KEYS[1] agent:workers          zset    worker -> lease end (ms)
-- KEYS[2] agent:own:<worker>     set     ids that this worker owns
-- KEYS[3] agent:sweeper          hash    the worker that sweeps
-- ARGV[1] worker
-- Returns how many tasks it still owns; 0: it has left
local workers_key, own_key, sweeper_key, worker = KEYS[1], KEYS[2], KEYS[3], ARGV[1]

if redis.call('HGET', sweeper_key, 'worker') == worker then
  redis.call('HDEL', sweeper_key, 'worker')
end
local owned = redis.call('SCARD', own_key)
if owned == 0 then
  redis.call('ZREM', workers_key, worker)
end
return owned
