-- Hold an amount for one HTTP attempt in its task, its user and the whole fleet: in all of them or in none.
-- Runs behind token_budget_book.lua.
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
local rid, model, user, task = ARGV[1], ARGV[4], ARGV[5], ARGV[6]
local requested = { tokens = tonumber(ARGV[2]), cost = tonumber(ARGV[3]) }
local ttl_ms, limits, utc_offset_ms = tonumber(ARGV[7]), cjson.decode(ARGV[8]), tonumber(ARGV[9])
local now_ms = clock_ms(ARGV[10])

local is_new = redis.call("EXISTS", reservation) == 0
if not is_new then
  requested = { tokens = 0, cost = 0 }
end
if limits.request and requested.tokens > limits.request then
  return { "refused", "request", "tokens", limits.request, 0, 0, requested.tokens, 0 }
end

local day = math.floor((now_ms + utc_offset_ms) / DAY_MS)
local record = { state = "held", day = digits(day), user = user, task = task, model = model }
record.tokens, record.cost = requested.tokens, requested.cost

local scopes, fill = scopes_of(record), 0
for _, scope in ipairs(scopes) do
  for _, unit in ipairs(UNITS) do
    local limit, used, held = limits[scope.name][unit], scope[unit].used, scope[unit].held
    local total = used + held + requested[unit]
    if limit and is_new and total > limit then
      local resets_at_ms = scope.name == "task" and 0 or (day + 1) * DAY_MS - utc_offset_ms
      return { "refused", scope.name, unit, limit, used, held, requested[unit], resets_at_ms }
    end
    fill = math.max(fill, limit and math.floor(total * 1000 / limit) or 0)
  end
end
if not is_new then
  return { "held", fill }
end

for _, scope in ipairs(scopes) do
  local tokens, cost = scope.tokens.held + requested.tokens, scope.cost.held + requested.cost
  redis.call("HSET", scope.key, "held_tokens", digits(tokens), "held_cost", digits(cost))
  if scope.name == "task" then
    redis.call("PEXPIRE", scope.key, KEEP_TASK_MS)
  elseif scope.is_new then
    redis.call("PEXPIRE", scope.key, KEEP_DAY_MS)
  end
end
write_record(reservation, record)
redis.call("ZADD", reservations, digits(now_ms + ttl_ms), rid)
redis.call("PEXPIRE", reservations, KEEP_MS.held)
return { "held", fill }
