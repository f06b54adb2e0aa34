-- Forget what a scope has used today, and its alerts; what running calls hold stays held, and models keep their totals.
--
-- Uses shared/connections/clock: clock
-- Uses shared/budget/policy: offset_of
--
-- KEYS[1]  agent:budget:policy  hash  limits of the fleet
-- ARGV[1]  limits as JSON, for the day's offset where the policy has none that can be read
-- ARGV[2]  scope: global, tenant or user
-- ARGV[3]  the tenant, or the user with its tenant, encoded; empty for global
-- ARGV[4]  now in ms; empty: server TIME
--
-- Returns {day number, tokens, nano-dollars} that were forgotten
local policy_key = KEYS[1]
local seed, scope, subject, now_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local utc_offset_s = offset_of(redis.call("HGET", policy_key, "utc_offset_s")) or cjson.decode(seed).utc_offset_s
local day = math.floor((clock(now_ms) / 1000 + utc_offset_s) / 86400)
local key = "agent:budget:" .. string.format("%d", day) .. ":" .. (scope == "global" and scope or scope .. ":" .. subject)
local used = redis.call("HMGET", key, "used_tokens", "used_cost")
if redis.call("EXISTS", key) == 1 then
  redis.call("HSET", key, "used_tokens", 0, "used_cost", 0)
  redis.call("HDEL", key, "alerted_tokens", "alerted_cost", "alerted_limit_tokens", "alerted_limit_cost")
end
return { day, tonumber(used[1] or 0), tonumber(used[2] or 0) }
