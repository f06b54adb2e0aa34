#!lua flags=allow-oom
-- Leave the fleet in order. A worker that still owns tasks stays, so that they are reaped when its lease ends.
--
-- KEYS[1] agent:workers          zset    worker -> lease end (ms)
-- KEYS[2] agent:own:<worker>     set     ids that this worker owns
-- ARGV[1] worker
-- Returns how many tasks it still owns; 0: it has left
local workers_key, own_key, worker = KEYS[1], KEYS[2], ARGV[1]

local owned = redis.call('SCARD', own_key)
if owned == 0 then
  redis.call('ZREM', workers_key, worker)
end
return owned
