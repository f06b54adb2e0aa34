#!lua flags=allow-oom
-- Charge reservations that are past their time: the provider may have billed their calls. Charged is the input
-- and the model's mean output, at most what is held; with any other hold than `estimate`, all that is
-- held.
--
-- Uses shared/connections/clock: clock
-- Uses shared/budget/prelude: read_policy, read_record, write_record
-- Uses shared/budget/booking: book, count, read_stats
--
-- KEYS[1]  zset of live reservations: id -> end in ms
-- KEYS[2]  stream of alerts: scope, subject, unit, percent, used, limit, day
-- ARGV[1]  most reservations to charge in this call
-- ARGV[2]  limits as JSON, as in reserve.lua
-- ARGV[3]  what the key of a reservation's record begins with, its id follows
-- ARGV[4]  now in ms; empty: server TIME
--
-- Returns {{id, ...} of the charged reservations, {alert, ...}, {payer, ...} of the charged}; an alert is
-- {scope, subject, unit, percent, used, limit, day number}, a payer {tenant, user, task} as in reserve.lua.
local reservations, alerts = KEYS[1], { stream = KEYS[2] }
local batch, seed, prefix, now_ms = ARGV[1], ARGV[2], ARGV[3], clock(ARGV[4])

local function charge_of(record, limits)
  if limits.hold ~= "estimate" then
    return { tokens = record.tokens, cost = record.cost }
  end
  local stats, output = read_stats(record.model), record.tokens - record.input_tokens
  local mean = stats and stats[1] > 0 and math.min(output, math.ceil(stats[2] / stats[1])) or 0
  local price = output > 0 and (record.cost - record.input_cost) / output or 0
  return { tokens = record.input_tokens + mean, cost = math.min(record.cost, record.input_cost + math.ceil(price * mean)) }
end

local charged, payers = {}, {}
for _, rid in ipairs(redis.call("ZRANGE", reservations, "-inf", now_ms, "BYSCORE", "LIMIT", 0, batch)) do
  local record = read_record(prefix .. rid)
  if record and record.state == "held" then
    local limits = read_policy(record.tenant, record.user, seed)
    local used = charge_of(record, limits)
    book(record, { tokens = -record.tokens, cost = -record.cost }, used, limits, alerts)
    count(record, 0, 0, used.tokens, 1, 1, used.cost)
    -- A worker that was frozen or cut off settles late; an hour is longer than it keeps trying.
    record.state, record.tokens, record.cost = "expired", used.tokens, used.cost
    write_record(prefix .. rid, record, 3600000)
    table.insert(charged, rid)
    table.insert(payers, { record.tenant, record.user, record.task })
  end
  redis.call("ZREM", reservations, rid)
end
return { charged, alerts, payers }
