#!lua flags=allow-oom
-- Close a breaker by hand and forget what it counted; the generation stays, so that calls in flight have no vote.
--
-- Uses shared/connections/clock: clock
--
-- KEYS[1] agent:breaker:<name>          hash    the breaker
-- KEYS[2] agent:breaker_probes:<name>   zset    token of a probe in flight -> end of its lease (ms)
-- ARGV[1] keep the breaker after its last use (ms)
-- ARGV[2] now (ms) in tests, else empty
-- Returns {state before, state after, generation, why (empty), 0, 0}, as of report
local key, probes_key = KEYS[1], KEYS[2]
local keep_ms, now_ms = tonumber(ARGV[1]), clock(ARGV[2])

local before, generation = unpack(redis.call('HMGET', key, 'state', 'generation'))
if redis.call('EXISTS', key) == 0 then
  return {'closed', 'closed', 0, '', 0, 0}
end
generation = tonumber(generation or 0) + 1
redis.call('DEL', key, probes_key)
redis.call('HSET', key, 'state', 'closed', 'generation', generation, 'changed_at', now_ms)
redis.call('PEXPIRE', key, keep_ms)
return {before or 'closed', 'closed', generation, '', 0, 0}
