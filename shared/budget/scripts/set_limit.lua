-- Set or raise a limit of the fleet's policy, or let a tenant or user have the limit for all of them again.
--
-- Uses shared/budget/policy: EXACT, amount_of, pair_of, in_force
--
-- KEYS[1]  agent:budget:policy  hash  limits of the fleet
-- ARGV[1]  limits as JSON, field -> value of the policy, to begin with where there are none
-- ARGV[2]  field: request, global, tenant, tenant:<tenant>, user, user:<user>, task, hold, utc_offset_s
-- ARGV[3]  tokens: a number, +number to add, - for no limit, empty to leave as they are; the value of hold and offset
-- ARGV[4]  nano-dollars, likewise; empty for a field that has none
-- ARGV[5]  1 to remove the field, else 0
--
-- An amount that one tenant or user was not given stays the one for all of them, also when that changes later. What
-- cannot be read and is not set becomes the caller's own.
--
-- Returns {"changed", limit before, limit after}, as the policy writes them, with the amounts that hold (- for what cannot be
-- read); before is empty where there was none of its own, or none that can be read. Or, with nothing changed, {"unreadable", the limit} for an
-- amount that cannot be raised, or {"too_large", amount before, amount to add}.
local policy_key = KEYS[1]
local seed, field, tokens, cost, is_removed = cjson.decode(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5] == "1"
local scope = string.match(field, "^[%a_]+")
local is_own, has_cost = scope ~= field, scope ~= "request" and scope ~= "hold" and scope ~= "utc_offset_s"

for name, value in pairs(seed) do
  redis.call("HSETNX", policy_key, name, value)
end
local all, before = unpack(redis.call("HMGET", policy_key, scope, field))

local function shown(own)
  local shown_tokens, shown_cost = in_force(own, all)
  local _, is_readable = amount_of(shown_tokens)
  local _, is_readable_too = amount_of(shown_cost)
  return is_readable and is_readable_too and shown_tokens .. " " .. shown_cost
end

if is_removed then
  redis.call("HDEL", policy_key, field)
  return { "changed", before and shown(before) or "", all }
end

-- What an amount becomes, or nil and why it stays.
local function changed(old, for_all, seeded, given)
  local added = string.match(given, "^%+(%d+)$")
  if given ~= "" and not added then
    return given
  end
  local holds = old == "=" and for_all or old
  local number, is_readable = amount_of(holds)
  if not added then
    return (is_readable or old == "=") and old or seeded
  end
  if not is_readable then
    return nil, { "unreadable", holds }
  end
  if number and number + added >= EXACT then
    return nil, { "too_large", holds, added }
  end
  return number and string.format("%d", number + added) or old
end

if not has_cost then
  local after, problem = changed(before, "", seed[scope], tokens)
  if not after then
    return problem
  end
  redis.call("HSET", policy_key, field, after)
  local _, is_readable = amount_of(before)
  return { "changed", (is_readable or scope ~= "request") and before or "", after }
end

local old_tokens, old_cost = pair_of(is_own and (before or "= =") or all)
local all_tokens, all_cost = pair_of(all)
local seed_tokens, seed_cost = pair_of(is_own and "= =" or seed[scope])
local new_tokens, problem = changed(old_tokens, all_tokens, seed_tokens, tokens)
local new_cost, other_problem = changed(old_cost, all_cost, seed_cost, cost)
if not new_tokens or not new_cost then
  return problem or other_problem
end
local was = is_own and before and shown(before) or not is_own and shown() or ""
local after = new_tokens .. " " .. new_cost
redis.call("HSET", policy_key, field, after)
if is_own then
  after = shown(after) or string.gsub(after, "=", "-")
end
return { "changed", was, after }
