#!lua flags=no-writes
-- Read what a day's calls used and hold, for the whole fleet or for one user.
--
-- ARGV[1]  number of the day since 1970-01-01; empty: today
-- ARGV[2]  user with its tenant, encoded; empty: the whole fleet
-- ARGV[3]  offset of the day from UTC in s
-- ARGV[4]  now in ms; empty: server TIME
--
-- Returns {day number, {field, value, ...} of the scope's hash, {field, value, ...} of the day's models}.
local day, user, utc_offset_s, now_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if day == "" then
  local now_s = now_ms == "" and redis.call("TIME")[1] or now_ms / 1000
  day = string.format("%d", math.floor((now_s + utc_offset_s) / 86400))
end

local prefix = "agent:budget:" .. day
local scope = user == "" and ":global" or ":user:" .. user
return { tonumber(day), redis.call("HGETALL", prefix .. scope), redis.call("HGETALL", prefix .. ":models") }
