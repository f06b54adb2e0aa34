#!lua flags=allow-oom
-- Charge reservations that are past their time in full: the provider may have billed their calls.
--
-- Uses shared/budget/prelude: book, count, read_record
--
-- KEYS[1]  zset of live reservations: id -> end in ms
-- KEYS[2]  stream of alerts: scope, subject, unit, percent, used, limit, day
-- ARGV[1]  most reservations to charge in this call
-- ARGV[2]  limits as JSON, as in token_budget_reserve.lua
-- ARGV[3]  what the key of a reservation's record begins with, its id follows
-- ARGV[4]  now in ms; empty: server TIME
--
-- Returns {{id, ...} of the charged reservations, {alert, ...}}; an alert is
-- {scope, subject, unit, percent, used, limit, day number}.
local reservations, alerts = KEYS[1], { stream = KEYS[2] }
local batch, limits, prefix, now_ms = ARGV[1], cjson.decode(ARGV[2]), ARGV[3], ARGV[4]

if now_ms == "" then
  local time = redis.call("TIME")
  now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
end
local charged = {}
for _, rid in ipairs(redis.call("ZRANGE", reservations, "-inf", now_ms, "BYSCORE", "LIMIT", 0, batch)) do
  local record = read_record(prefix .. rid)
  if record and record.state == "held" then
    local used = { tokens = record.tokens, cost = record.cost }
    book(record, { tokens = -record.tokens, cost = -record.cost }, used, limits, alerts)
    count(record, 0, 0, record.tokens, 1, 0, record.cost)
    -- A worker that was frozen or cut off settles late; an hour is longer than it keeps trying.
    redis.call("SET", prefix .. rid, record.value:gsub("^held", "expired"), "PX", 3600000)
    table.insert(charged, rid)
  end
  redis.call("ZREM", reservations, rid)
end
return { charged, alerts }
