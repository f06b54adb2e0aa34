#!lua flags=allow-oom
-- Ask whether a call may start. Writes nothing while the breaker is closed or refuses.
--
-- Uses shared/connections/clock: clock
--
-- KEYS[1] agent:breaker:<name>          hash    the breaker
-- KEYS[2] agent:breaker_probes:<name>   zset    token of a probe in flight -> end of its lease (ms)
-- ARGV[1] token of the call
-- ARGV[2] probes in flight at most while half-open
-- ARGV[3] lease of a probe (ms)
-- ARGV[4] longest wait that a refusal while half-open asks for (ms)
-- ARGV[5] keep both keys after their last use (ms)
-- ARGV[6] now (ms) in tests, else empty
-- Returns {verdict, generation, wait (ms), state before, state after, why it opened or empty}
--   verdict: allow | probe | reject; state: closed | open | half_open; why: as in report.lua
local key, probes_key = KEYS[1], KEYS[2]
local token, max_probes, lease_ms, ask_again_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local keep_ms, now_ms = tonumber(ARGV[5]), clock(ARGV[6])

local state, generation, why, open_ends_at, cooldown_ends_at =
  unpack(redis.call('HMGET', key, 'state', 'generation', 'why', 'open_ends_at', 'cooldown_ends_at'))
state, generation, why = state or 'closed', tonumber(generation or 0), why or ''
local before = state

local refused_until = math.max(tonumber(open_ends_at or 0), tonumber(cooldown_ends_at or 0))
if now_ms < refused_until then
  return {'reject', generation, refused_until - now_ms, before, state, why}
end
if state == 'closed' then
  return {'allow', generation, 0, before, state, why}
end

if state == 'open' then
  state, generation = 'half_open', generation + 1
  redis.call('HSET', key, 'state', state, 'generation', generation, 'changed_at', now_ms, 'open_ends_at', 0)
end
redis.call('ZREMRANGEBYSCORE', probes_key, '-inf', now_ms)
-- A probe that asks again lost the reply: it has its slot already.
if not redis.call('ZSCORE', probes_key, token) then
  if redis.call('ZCARD', probes_key) >= max_probes then
    local first = redis.call('ZRANGE', probes_key, 0, 0, 'WITHSCORES')
    -- The slot is free when the lease ends at the latest; most probes report long before.
    return {'reject', generation, math.min(first[2] - now_ms, ask_again_ms), before, state, why}
  end
  redis.call('ZADD', probes_key, now_ms + lease_ms, token)
  redis.call('PEXPIRE', probes_key, lease_ms + keep_ms)
  redis.call('PEXPIRE', key, lease_ms + keep_ms)
end
return {'probe', generation, 0, before, state, why}
