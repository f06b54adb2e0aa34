#!lua flags=no-writes
-- Read what a day's calls used and hold, for the whole fleet, a tenant or a user, and the limits for it.
--
-- Uses shared/connections/clock: clock
-- Uses shared/budget/policy: amount_of, in_force, offset_of
--
-- KEYS[1]  agent:budget:policy  hash  limits of the fleet
-- ARGV[1]  number of the day since 1970-01-01; empty: today
-- ARGV[2]  scope: global, tenant or user
-- ARGV[3]  the tenant, or the user with its tenant, encoded; empty for global
-- ARGV[4]  limits as JSON, field -> value of the policy, that hold where there are none
-- ARGV[5]  now in ms; empty: server TIME
--
-- Returns {day number, offset of the day from UTC in s, limit ("tokens cost", - for none), alert percents,
-- {field, value, ...} of the scope's hash, {field, value, ...} of the day's models, name of the policy's field in which
-- the limit cannot be read or an empty text}. What cannot be read of a limit is -.
local policy_key = KEYS[1]
local day, scope, subject, seed, now_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local own = scope .. ":" .. subject
local names = { "utc_offset_s", "alert_percents", scope }
local found = redis.call("HMGET", policy_key, own, unpack(names))
local values = {}
for i, name in ipairs(names) do
  values[name] = found[i + 1] or cjson.decode(seed)[name]
end
local utc_offset_s = offset_of(values.utc_offset_s) or tonumber(cjson.decode(seed).utc_offset_s)
local tokens, cost, has_tokens, has_cost = in_force(found[1], values[scope])
local unreadable = ""
local function shown(word, field)
  local _, is_readable = amount_of(word)
  if not is_readable then
    unreadable = field
  end
  return is_readable and word or "-"
end
local percents = {}
for percent in string.gmatch(values.alert_percents, "%d+") do
  percents[#percents + 1] = tonumber(percent)
end
local limit = shown(tokens, has_tokens and own or scope) .. " " .. shown(cost, has_cost and own or scope)
if day == "" then
  day = string.format("%d", math.floor((clock(now_ms) / 1000 + utc_offset_s) / 86400))
end

local prefix = "agent:budget:" .. day
local booked = redis.call("HGETALL", prefix .. ":" .. (scope == "global" and scope or own))
return {
  tonumber(day), utc_offset_s, limit, percents, booked, redis.call("HGETALL", prefix .. ":models"),
  unreadable,
}
