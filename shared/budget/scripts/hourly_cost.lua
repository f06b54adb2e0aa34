-- Add up what the fleet spends per hour, from the day's total, and tell once when an hour is far above the usual.
--
-- Uses shared/connections/clock: clock
-- Uses shared/budget/policy: offset_of
--
-- KEYS[1] agent:budget:hours   hash    hour since 1970 -> nano-dollars; last_day, last_used: what was looked at last;
--                                      first: the first hour that was looked at; alerted: the last hour told about
-- KEYS[2] agent:budget:alerts  stream  scope, subject, unit, percent, used, limit, day
-- KEYS[3] agent:budget:policy  hash    limits of the fleet, and the offset of its day
-- ARGV[1] offset of the day from UTC (s), where the policy has none that can be read
-- ARGV[2] how many times the mean is far above
-- ARGV[3] hours of history that a mean needs
-- ARGV[4] now (ms) in tests, else empty
-- Returns {nano-dollars of this hour, mean of the seven days before, 1 if this call raised the alert else 0, day number}
local hours_key, alerts_key, policy_key = KEYS[1], KEYS[2], KEYS[3]
local times, history, now_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), clock(ARGV[4])
local utc_offset_s = offset_of(redis.call('HGET', policy_key, 'utc_offset_s')) or tonumber(ARGV[1])
local WEEK, DAY_MS = 168, 86400000

local now_s = now_ms / 1000
local hour, day = math.floor(now_s / 3600), math.floor((now_s + utc_offset_s) / 86400)

local function used_on(number)
  return tonumber(redis.call('HGET', 'agent:budget:' .. string.format('%d', number) .. ':global', 'used_cost') or 0)
end

local seen = redis.call('HMGET', hours_key, 'last_day', 'last_used', 'first', 'alerted')
local last_day, last_used, first = tonumber(seen[1]), tonumber(seen[2] or 0), tonumber(seen[3] or hour)
local used = used_on(day)
local spent = used
if last_day == day then
  spent = math.max(0, used - last_used)
elseif last_day then
  spent = used + math.max(0, used_on(last_day) - last_used)
end
local cost = redis.call('HINCRBY', hours_key, hour, string.format('%d', spent))
redis.call('HSET', hours_key, 'last_day', day, 'last_used', string.format('%d', used), 'first', first)
redis.call('PEXPIRE', hours_key, 8 * DAY_MS)

local known, total, fields = math.min(WEEK, hour - first), 0, redis.call('HGETALL', hours_key)
for i = 1, #fields, 2 do
  local number = tonumber(fields[i])
  if number and number < hour - WEEK then
    redis.call('HDEL', hours_key, fields[i])
  elseif number and number < hour then
    total = total + tonumber(fields[i + 1])
  end
end
local mean = known > 0 and math.floor(total / known) or 0
if known < history or mean == 0 or cost <= times * mean or tonumber(seen[4]) == hour then
  return {cost, mean, 0, day}
end
redis.call('HSET', hours_key, 'alerted', hour)
redis.call('XADD', alerts_key, 'MAXLEN', '~', 1000, '*', 'scope', 'global', 'subject', '', 'unit', 'hour_cost',
  'percent', math.floor(cost * 100 / mean), 'used', string.format('%d', cost), 'limit',
  string.format('%d', times * mean), 'day', day)
redis.call('PEXPIRE', alerts_key, 7 * DAY_MS)
return {cost, mean, 1, day}
