#!lua flags=no-writes
-- Read a breaker without changing it.
--
-- Uses shared/connections/clock: clock
-- Uses shared/breaker/window: bucket_at, window_of
--
-- KEYS[1] agent:breaker:<name>          hash    the breaker
-- KEYS[2] agent:breaker_probes:<name>   zset    token of a probe in flight -> end of its lease (ms)
-- ARGV[1] window (ms), 0 for none
-- ARGV[2] now (ms) in tests, else empty
-- Returns nil for an unknown breaker, else {state, why, generation, changed at, open ends at, cooldown ends at,
--   consecutive failures, calls in the window, failed of them, probes in flight}; instants in ms, 0 or nil for none
local key, probes_key = KEYS[1], KEYS[2]
local window_ms, now_ms = tonumber(ARGV[1]), clock(ARGV[2])

if redis.call('EXISTS', key) == 0 then
  return false
end
local calls, failed = 0, 0
if window_ms > 0 then
  calls, failed = window_of(key, bucket_at(now_ms, window_ms))
end
local reply = redis.call('HMGET', key, 'state', 'why', 'generation', 'changed_at', 'open_ends_at', 'cooldown_ends_at',
  'failures')
reply[8], reply[9], reply[10] = calls, failed, redis.call('ZCOUNT', probes_key, '(' .. now_ms, '+inf')
return reply
