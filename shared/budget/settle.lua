#!lua flags=allow-oom
-- Replace what a reservation holds, or was charged when it expired, by what the call really used.
--
-- Uses shared/budget/prelude: book, count, read_record
--
-- KEYS[1]  zset of live reservations: id -> end in ms
-- KEYS[2]  record of this reservation: "state day tokens cost user task model"
-- KEYS[3]  stream of alerts: scope, subject, unit, percent, used, limit, day
-- ARGV[1]  reservation id
-- ARGV[2]  input tokens
-- ARGV[3]  output tokens
-- ARGV[4]  cost in nano-dollars
-- ARGV[5]  1 if the amounts are estimated, else 0
-- ARGV[6]  limits as JSON, as in token_budget_reserve.lua
--
-- Returns {outcome, tokens above the reservation, nano-dollars above it, {alert, ...}}; the outcome is settled,
-- corrected (it had expired), repeated (settled before, nothing changed) or unknown (never reserved, or forgotten);
-- an alert is {scope, subject, unit, percent, used, limit, day number}.
local reservations, reservation, alerts = KEYS[1], KEYS[2], { stream = KEYS[3] }
local rid, input_tokens, output_tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local tokens, cost = input_tokens + output_tokens, tonumber(ARGV[4])
local estimated, limits = tonumber(ARGV[5]), cjson.decode(ARGV[6])

local record = read_record(reservation)
if not record then
  return { "unknown", 0, 0, {} }
end
if record.state == "settled" then
  return { "repeated", 0, 0, {} }
end

-- Nothing used: the call never left, its reservation is handed back and is not counted.
local calls = (tokens > 0 or cost > 0) and 1 or 0
local outcome
if record.state == "held" then
  outcome = "settled"
  book(record, { tokens = -record.tokens, cost = -record.cost }, { tokens = tokens, cost = cost }, limits, alerts)
  count(record, input_tokens, output_tokens, 0, calls, calls * estimated, cost)
else
  outcome = "corrected"
  local more = { tokens = tokens - record.tokens, cost = cost - record.cost }
  book(record, { tokens = 0, cost = 0 }, more, limits, alerts)
  count(record, input_tokens, output_tokens, -record.tokens, calls - 1, calls * estimated, more.cost)
end

-- For repeated requests, which come within the time of their retries.
redis.call("SET", reservation, record.value:gsub("^%l+", "settled"), "PX", 600000)
redis.call("ZREM", reservations, rid)
return { outcome, math.max(0, tokens - record.tokens), math.max(0, cost - record.cost), alerts }
