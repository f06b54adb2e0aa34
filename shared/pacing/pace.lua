#!lua flags=allow-oom
-- Ask whether a call may start now at the rates that its provider allows, and book it if so.
-- A booking moves the instant of each rate ahead by the call's part of a minute. A call may start while that instant is
-- at most a burst ahead, so that a call larger than the burst may start too.
--
-- Uses shared/connections/clock: clock
--
-- KEYS[1] agent:pace:<name>   hash   calls_at, tokens_at: the instant of each rate; asked_at: the last wait that was
--                                    answered ends then (ms)
-- ARGV[1] calls per minute, 0 for any number
-- ARGV[2] tokens per minute, 0 for any number
-- ARGV[3] tokens that the call is likely to use
-- ARGV[4] burst (ms)
-- ARGV[5] longest wait that is answered (ms)
-- ARGV[6] now (ms) in tests, else empty
-- Returns the wait (ms); 0: the call is booked and may start
local key, tokens = KEYS[1], tonumber(ARGV[3])
local per_minute = {calls_at = tonumber(ARGV[1]), tokens_at = tonumber(ARGV[2])}
local burst_ms, longest_ms, now_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), clock(ARGV[6])

local calls_at, tokens_at, asked_at = unpack(redis.call('HMGET', key, 'calls_at', 'tokens_at', 'asked_at'))
local free_at, part_ms, ends_at = now_ms, 0, now_ms
local booked = {}
for name, rate in pairs(per_minute) do
  if rate > 0 then
    local at = math.max(tonumber(name == 'calls_at' and calls_at or name == 'tokens_at' and tokens_at) or 0, now_ms)
    local takes_ms = (name == 'calls_at' and 1 or tokens) * 60000 / rate
    free_at, part_ms = math.max(free_at, at - burst_ms), math.max(part_ms, takes_ms)
    booked[#booked + 1], booked[#booked + 2] = name, string.format('%.3f', at + takes_ms)
    ends_at = math.max(ends_at, at + takes_ms)
  end
end
if free_at <= now_ms then
  redis.call('HSET', key, unpack(booked))
  redis.call('PEXPIRE', key, math.ceil(ends_at - now_ms) + 60000)
  return 0
end

-- Each caller that has to wait is sent to an instant of its own: they come back one by one, at the rate.
local asks_at = math.min(math.max(tonumber(asked_at) or 0, free_at), now_ms + longest_ms)
redis.call('HSET', key, 'asked_at', string.format('%.3f', asks_at + part_ms))
return math.max(1, math.ceil(asks_at - now_ms))
