#!lua flags=no-writes
-- Read what a day's calls used and hold, for the whole fleet, a tenant or a user, and the limits for it.
--
-- Uses shared/connections/clock: clock
--
-- KEYS[1]  agent:budget:policy  hash  limits of the fleet
-- ARGV[1]  number of the day since 1970-01-01; empty: today
-- ARGV[2]  scope: global, tenant or user
-- ARGV[3]  the tenant, or the user with its tenant, encoded; empty for global
-- ARGV[4]  limits as JSON, field -> value of the policy, that hold where there is none
-- ARGV[5]  now in ms; empty: server TIME
--
-- Returns {day number, offset of the day from UTC in s, limit ("tokens cost", - for none), alert percents,
-- {field, value, ...} of the scope's hash, {field, value, ...} of the day's models}.
local policy_key = KEYS[1]
local day, scope, subject, seed, now_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local own = scope .. ":" .. subject
local found = redis.call("HMGET", policy_key, "utc_offset_s", "alert_percents", scope, own)
if not found[1] then
  local limits = cjson.decode(seed)
  found = { limits.utc_offset_s, limits.alert_percents, limits[scope] }
end
local utc_offset_s, percents, limit = tonumber(found[1]), found[2], found[4] or found[3]
if day == "" then
  day = string.format("%d", math.floor((clock(now_ms) / 1000 + utc_offset_s) / 86400))
end

local prefix = "agent:budget:" .. day
local booked = redis.call("HGETALL", prefix .. ":" .. (scope == "global" and scope or own))
return { tonumber(day), utc_offset_s, limit, percents, booked, redis.call("HGETALL", prefix .. ":models") }
