#!lua flags=allow-oom
-- Correct a booking: a call used more or fewer tokens than it was booked with, or was not made.
--
-- Uses shared/connections/clock: clock
--
-- KEYS[1] agent:pace:<name>   hash   calls_at, tokens_at: the instant of each rate (ms); see pace.lua
-- ARGV[1] calls per minute, 0 for any number
-- ARGV[2] tokens per minute, 0 for any number
-- ARGV[3] calls to add; negative to give back
-- ARGV[4] tokens to add; negative to give back
-- ARGV[5] now (ms) in tests, else empty
-- Returns 1 corrected | 0 there was nothing to correct
local key, now_ms = KEYS[1], clock(ARGV[5])
local more = {calls_at = {tonumber(ARGV[1]), tonumber(ARGV[3])}, tokens_at = {tonumber(ARGV[2]), tonumber(ARGV[4])}}

local corrected = 0
for name, one in pairs(more) do
  local rate, number = one[1], one[2]
  local at = rate > 0 and number ~= 0 and tonumber(redis.call('HGET', key, name))
  if at then
    -- What is added after an idle time counts from now on.
    local corrected_at = math.max(at, now_ms) + number * 60000 / rate
    redis.call('HSET', key, name, string.format('%.3f', corrected_at))
    redis.call('PEXPIRE', key, math.ceil(math.max(corrected_at - now_ms, 0)) + 60000, 'GT')
    corrected = 1
  end
end
return corrected
