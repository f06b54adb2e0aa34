#!lua flags=allow-oom
-- Hold an amount for one HTTP attempt in its task, user and tenant and in the whole fleet: in all of them or in none.
--
-- Uses shared/connections/clock: clock
-- Uses shared/budget/prelude: DAY_MS, MODEL_STATS, read_policy, booked, scopes_of, read_record, write_record,
--   forget_scope_later
--
-- KEYS[1]  zset of live reservations: id -> end in ms
-- KEYS[2]  record of this reservation
-- ARGV[1]  reservation id
-- ARGV[2]  input tokens
-- ARGV[3]  cost of the input in nano-dollars
-- ARGV[4]  output tokens
-- ARGV[5]  cost of the output in nano-dollars
-- ARGV[6]  1 if the output is a guess, which is held as far as there is room for it, else 0
-- ARGV[7]  model
-- ARGV[8]  tenant, encoded
-- ARGV[9]  user with its tenant, encoded
-- ARGV[10] task with its tenant, encoded; empty for none
-- ARGV[11] life of the reservation in ms
-- ARGV[12] limits as JSON, field -> value of the policy, to begin with where there is none
-- ARGV[13] 1 if the call waits while it is busy, else 0
-- ARGV[14] now in ms; empty: server TIME
--
-- A guess shrinks to LEAST_GUESS tokens at least: a shorter answer is paid for and of no use.
--
-- A call that is busy and waits becomes the first in wait for its limit, if there is none: for WAIT_MS, and again each
-- time that it asks. It gives up its place by a settle of nothing. Others leave room for it, so that many small calls cannot keep out a large one.
--
-- Returns {"held", fill of the tightest scope in thousandths, tokens, nano-dollars, output tokens among them, what is
-- known of the model (see `learn`)}, again for an id that has a reservation already; or, with nothing held,
-- {"refused" | "busy", scope, unit, limit, used, held, requested, reset time in ms or 0, what is known of the
-- model}: refused if the amount does not fit beside what is used, busy if it does not fit beside what is held, or kept
-- for the first in wait, too; or {"unreadable", name of a field of the policy that is no limit}.
local WAIT_MS, LEAST_GUESS = 3000, 64
local NOTHING = { tokens = 0, cost = 0 }
local reservations, reservation = KEYS[1], KEYS[2]
local rid, is_guess, ttl_ms, now_ms = ARGV[1], ARGV[6] == "1", tonumber(ARGV[11]), clock(ARGV[14])
local limits, may_wait = read_policy(ARGV[8], ARGV[9], ARGV[12]), ARGV[13] == "1"
local input = { tokens = tonumber(ARGV[2]), cost = tonumber(ARGV[3]) }
local output = { tokens = tonumber(ARGV[4]), cost = tonumber(ARGV[5]) }
local price = output.tokens > 0 and output.cost / output.tokens or 0
local least = is_guess and math.min(LEAST_GUESS, output.tokens) or output.tokens

local record = read_record(reservation)
local is_new = not record
if not record then
  local tenant, task = booked(limits, ARGV[8], ARGV[10])
  record = {
    state = "held", day = string.format("%d", math.floor((now_ms + limits.utc_offset_ms) / DAY_MS)),
    input_tokens = input.tokens, input_cost = input.cost, tokens = 0, cost = 0,
    tenant = tenant, user = ARGV[9], task = task, model = ARGV[7],
  }
end
local known = redis.call("HGET", MODEL_STATS, record.model) or ""
local resets_at_ms = (record.day + 1) * DAY_MS - limits.utc_offset_ms

local function no(answer, scope, unit, limit, used, held, requested)
  local resets = (scope == "task" or scope == "request") and 0 or resets_at_ms
  return { answer, scope, unit, limit, used, held, requested, resets, known }
end

-- Shrink a guessed output to what is left of a limit; false: not even the input fits.
local function fits(unit, left)
  if input[unit] + output[unit] <= left then
    return true
  end
  local room = left - input[unit]
  local tokens = unit == "tokens" and room or (price > 0 and math.floor(room / price) or 0)
  if not is_guess or tokens < least then
    return false
  end
  output.tokens = math.min(output.tokens, tokens)
  output.cost = math.floor(price * output.tokens)
  return true
end

local UNITS = { "tokens", "cost" }
local scopes, limited = scopes_of(record), {}
for _, scope in ipairs(scopes) do
  local limit = limits[scope.name]
  local is_limited = limit.tokens or limit.cost
  local held_tokens, held_cost, used_tokens, used_cost, waiter = unpack(is_limited
    and redis.call("HMGET", scope.key, "held_tokens", "held_cost", "used_tokens", "used_cost", "waiter")
    or redis.call("HMGET", scope.key, "held_tokens", "held_cost"))
  scope.is_new = not held_tokens
  scope.held = { tokens = tonumber(held_tokens) or 0, cost = tonumber(held_cost) or 0 }
  if is_limited then
    limited[#limited + 1] = scope
    scope.limit = limit
    scope.used = { tokens = tonumber(used_tokens) or 0, cost = tonumber(used_cost) or 0 }
    scope.kept = NOTHING
    if waiter then
      local tokens, cost, ends_at, first = string.match(waiter, "^(%d+) (%d+) (%d+) (.+)$")
      scope.is_first, scope.is_kept = first == rid, first and first ~= rid and tonumber(ends_at) > now_ms
      scope.kept = scope.is_kept and { tokens = tonumber(tokens), cost = tonumber(cost) } or NOTHING
    end
  end
end

if is_new then
  if limits.unreadable then
    return { "unreadable", limits.unreadable }
  end
  if limits.request and not fits("tokens", limits.request) then
    return no("refused", "request", "tokens", limits.request, 0, 0, input.tokens + least)
  end
  for _, scope in ipairs(limited) do
    for _, unit in ipairs(UNITS) do
      local limit, used = scope.limit[unit], scope.used[unit]
      if limit and not fits(unit, limit - used) then
        local requested = input[unit] + (is_guess and unit == "tokens" and least or is_guess and 0 or output[unit])
        return no("refused", scope.name, unit, limit, used, scope.held[unit], requested)
      end
    end
  end
  record.tokens, record.cost = input.tokens + output.tokens, input.cost + output.cost
end

local fill = 0
for _, scope in ipairs(limited) do
  for _, unit in ipairs(UNITS) do
    local limit, used, held = scope.limit[unit], scope.used[unit], scope.held[unit]
    local requested = is_new and record[unit] or 0
    if limit and is_new and used + held + scope.kept[unit] + requested > limit then
      if may_wait and not scope.is_kept then
        redis.call(
          "HSET", scope.key, "waiter", string.format("%d %d %d %s", record.tokens, record.cost, now_ms + WAIT_MS, rid)
        )
      end
      return no("busy", scope.name, unit, limit, used, held + scope.kept[unit], requested)
    end
    fill = math.max(fill, limit and math.floor((used + held + requested) * 1000 / limit) or 0)
  end
end

if is_new then
  for _, scope in ipairs(scopes) do
    redis.call(
      "HSET", scope.key, "held_tokens", scope.held.tokens + record.tokens, "held_cost", scope.held.cost + record.cost
    )
    if scope.is_first then
      redis.call("HDEL", scope.key, "waiter")
    end
    if scope.is_new or scope.name == "task" then
      forget_scope_later(scope)
    end
  end
  write_record(reservation, record, 7 * DAY_MS)
  redis.call("ZADD", reservations, now_ms + ttl_ms, rid)
  local fleet = scopes[#scopes]
  -- Each day, and when the key may be new: it goes with the last reservation, when nothing is held.
  if fleet.is_new or fleet.held.tokens == 0 then
    redis.call("PEXPIRE", reservations, 8 * DAY_MS)
  end
end
return { "held", fill, record.tokens, record.cost, record.tokens - record.input_tokens, known }
