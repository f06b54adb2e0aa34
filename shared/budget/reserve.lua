#!lua flags=allow-oom
-- Hold an amount for one HTTP attempt in its task, its user and the whole fleet: in all of them or in none.
-- allow-oom, so that running tasks can end with memory full; it grows Redis by the calls in flight.
--
-- KEYS[1]  zset of live reservations: id -> end in ms
-- KEYS[2]  record of this reservation: "state day tokens cost user task model"
-- ARGV[1]  reservation id
-- ARGV[2]  requested tokens
-- ARGV[3]  requested cost in nano-dollars
-- ARGV[4]  model
-- ARGV[5]  user with its tenant, encoded
-- ARGV[6]  task with its tenant, encoded; empty: no task limit is set
-- ARGV[7]  life of the reservation in ms
-- ARGV[8]  limits as JSON: request, global, user, task (each {tokens, cost}; a missing one is no limit), alert_percents
-- ARGV[9]  offset of the day from UTC in ms
-- ARGV[10] now in ms; empty: server TIME
--
-- Returns {"held", fill of the tightest scope in thousandths}, again for an id that has a reservation already, or
-- {"refused", scope, unit, limit, used, held, requested, reset time in ms or 0}; a refusal books nothing.
local reservations, reservation = KEYS[1], KEYS[2]
local rid, tokens, cost, model, user, task = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local ttl_ms, limits, utc_offset_ms, now_ms = tonumber(ARGV[7]), cjson.decode(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
local DAY_MS = 86400000

if now_ms == "" then
  local time = redis.call("TIME")
  now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
end
local day = math.floor((now_ms + utc_offset_ms) / DAY_MS)
local resets_at_ms = (day + 1) * DAY_MS - utc_offset_ms
local prefix = "agent:budget:" .. day
-- Narrowest first, so that a refusal which no new day will lift is the one that is told.
local scopes = {
  { name = "user", key = prefix .. ":user:" .. user, resets_at_ms = resets_at_ms },
  { name = "global", key = prefix .. ":global", resets_at_ms = resets_at_ms },
}
if task ~= "" then
  table.insert(scopes, 1, { name = "task", key = "agent:budget:task:" .. task, resets_at_ms = 0 })
end

local is_new = redis.call("EXISTS", reservation) == 0
local requested = is_new and { tokens = tokens, cost = cost } or { tokens = 0, cost = 0 }
if is_new and limits.request and tokens > limits.request then
  return { "refused", "request", "tokens", limits.request, 0, 0, tokens, 0 }
end

local fill = 0
for _, scope in ipairs(scopes) do
  local booked = redis.call("HMGET", scope.key, "used_tokens", "held_tokens", "used_cost", "held_cost")
  scope.is_new = not booked[2]
  for i, unit in ipairs({ "tokens", "cost" }) do
    local used, held = tonumber(booked[2 * i - 1] or 0), tonumber(booked[2 * i] or 0)
    local limit, total = limits[scope.name][unit], used + held + requested[unit]
    if limit and is_new and total > limit then
      return { "refused", scope.name, unit, limit, used, held, requested[unit], scope.resets_at_ms }
    end
    fill = math.max(fill, limit and math.floor(total * 1000 / limit) or 0)
    scope[unit] = held + requested[unit]
  end
end
if not is_new then
  return { "held", fill }
end

-- Numbers go to redis.call as they are: Redis writes whole ones exactly.
for _, scope in ipairs(scopes) do
  redis.call("HSET", scope.key, "held_tokens", scope.tokens, "held_cost", scope.cost)
  if scope.name == "task" then
    redis.call("PEXPIRE", scope.key, 2 * DAY_MS)
  elseif scope.is_new then
    redis.call("PEXPIRE", scope.key, 8 * DAY_MS)
  end
end
-- The model comes last, because it is the one part that may contain spaces.
local record = table.concat({ "held", day, ARGV[2], ARGV[3], user, task, model }, " ")
redis.call("SET", reservation, record, "PX", 7 * DAY_MS)
redis.call("ZADD", reservations, now_ms + ttl_ms, rid)
redis.call("PEXPIRE", reservations, 7 * DAY_MS)
return { "held", fill }
