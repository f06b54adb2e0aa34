-- Set or raise a limit of the fleet's policy, or let a tenant or user have the limit for all of them again.
--
-- KEYS[1]  agent:budget:policy  hash  limits of the fleet
-- ARGV[1]  limits as JSON, field -> value of the policy, to begin with where there is none
-- ARGV[2]  field: request, global, tenant, tenant:<tenant>, user, user:<user>, task, hold, utc_offset_s
-- ARGV[3]  tokens: a number, +number to add, - for no limit, empty to leave as they are; the value of hold and offset
-- ARGV[4]  nano-dollars, likewise; empty for a field that has none
-- ARGV[5]  1 to remove the field, else 0
--
-- Returns {limit before, limit after}, as the policy writes them; before is empty where there was none of its own.
local policy_key = KEYS[1]
local seed, field, tokens, cost, is_removed = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == "1"

if redis.call("EXISTS", policy_key) == 0 then
  for name, value in pairs(cjson.decode(seed)) do
    redis.call("HSET", policy_key, name, value)
  end
end
local before = redis.call("HGET", policy_key, field)
local scope = string.match(field, "^[%a_]+")
if is_removed then
  redis.call("HDEL", policy_key, field)
  return { before or "", redis.call("HGET", policy_key, scope) or "" }
end

local function changed(old, given)
  if given == "" then
    return old
  end
  local added = string.match(given, "^%+(%d+)$")
  if added and old ~= "-" then
    return string.format("%.0f", old + added)
  end
  return added and old or given
end

local current = before or redis.call("HGET", policy_key, scope)
local old_tokens, old_cost = string.match(current, "^(%S+) ?(%S*)$")
local after = changed(old_tokens, tokens)
if old_cost ~= "" then
  after = after .. " " .. changed(old_cost, cost)
end
redis.call("HSET", policy_key, field, after)
return { before or "", after }
