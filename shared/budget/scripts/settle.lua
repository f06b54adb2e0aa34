#!lua flags=allow-oom
-- Replace what a reservation holds, or was charged when it expired, by what the call really used. A call that holds
-- nothing and used nothing gives up its place as the first in wait.
--
-- Uses shared/connections/clock: clock
-- Uses shared/budget/policy: offset_of
-- Uses shared/budget/prelude: DAY_MS, POLICY, read_policy, booked, scopes_of, read_record, write_record
-- Uses shared/budget/booking: book, count, is_learned, learn
--
-- KEYS[1]  zset of live reservations: id -> end in ms
-- KEYS[2]  record of this reservation
-- KEYS[3]  stream of alerts: scope, subject, unit, percent, used, limit, day
-- ARGV[1]  reservation id
-- ARGV[2]  input tokens
-- ARGV[3]  output tokens
-- ARGV[4]  cost in nano-dollars
-- ARGV[5]  1 if the amounts are estimated, else 0
-- ARGV[6]  bytes of the input's text, for the model's ratio of tokens to bytes; 0 for unknown
-- ARGV[7]  tokens of this text
-- ARGV[8]  limits as JSON, as in reserve.lua; they and the rest are for a lost reservation and for alerts
-- ARGV[9]  model
-- ARGV[10] tenant, encoded
-- ARGV[11] user with its tenant, encoded
-- ARGV[12] task with its tenant, encoded; empty for none
-- ARGV[13] now in ms; empty: server TIME
--
-- Returns {outcome, tokens above what was held or charged, nano-dollars above it, {alert, ...}}; the outcome is settled,
-- corrected (it had expired), repeated (settled before, nothing changed) or lost (Redis had forgotten the reservation:
-- booked on today); an alert is {scope, subject, unit, percent, used, limit, day number}.
local reservations, reservation, alerts = KEYS[1], KEYS[2], { stream = KEYS[3] }
local rid, input_tokens, output_tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local tokens, cost = input_tokens + output_tokens, tonumber(ARGV[4])
local estimated, text_bytes, text_tokens = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local record = read_record(reservation)
if record and record.state == "settled" then
  return { "repeated", 0, 0, {} }
end
-- Nothing used: the call never left, its reservation is handed back and is not counted.
local is_call = tokens > 0 or cost > 0
local calls = is_call and 1 or 0
local function of_no_record(offset_ms, tenant, task)
  return {
    day = string.format("%d", math.floor((clock(ARGV[13]) + offset_ms) / DAY_MS)), tokens = 0, cost = 0,
    input_tokens = 0, input_cost = 0, model = ARGV[9], tenant = tenant, user = ARGV[11], task = task,
  }
end
if not record and not is_call then
  local offset_s = offset_of(redis.call("HGET", POLICY, "utc_offset_s")) or cjson.decode(ARGV[8]).utc_offset_s
  for _, scope in ipairs(scopes_of(of_no_record(offset_s * 1000, ARGV[10], ARGV[12]))) do
    if string.match(redis.call("HGET", scope.key, "waiter") or "", "^%d+ %d+ %d+ (.+)$") == rid then
      redis.call("HDEL", scope.key, "waiter")
    end
  end
  return { "lost", 0, 0, {} }
end

local limits = read_policy(ARGV[10], ARGV[11], ARGV[8])
local outcome, more, calls_of_day
if not record then
  outcome = "lost"
  record = of_no_record(limits.utc_offset_ms, booked(limits, ARGV[10], ARGV[12]))
  more = { tokens = tokens, cost = cost }
  book(record, { tokens = 0, cost = 0 }, more, limits, alerts, true)
  calls_of_day = count(record, input_tokens, output_tokens, 0, 1, estimated, cost)
elseif record.state == "held" then
  outcome = "settled"
  more = { tokens = tokens - record.tokens, cost = cost - record.cost }
  book(record, { tokens = -record.tokens, cost = -record.cost }, { tokens = tokens, cost = cost }, limits, alerts)
  calls_of_day = count(record, input_tokens, output_tokens, 0, calls, calls * estimated, cost)
else
  outcome = "corrected"
  more = { tokens = tokens - record.tokens, cost = cost - record.cost }
  book(record, { tokens = 0, cost = 0 }, more, limits, alerts)
  calls_of_day = count(record, input_tokens, output_tokens, -record.tokens, calls - 1, calls * estimated - 1, more.cost)
end
if is_call and estimated == 0 and is_learned(calls_of_day) then
  learn(record.model, calls_of_day, output_tokens, text_bytes, text_tokens)
end

-- For repeated requests, which come within the time of their retries.
record.state = "settled"
write_record(reservation, record, 600000)
redis.call("ZREM", reservations, rid)
return { outcome, math.max(0, more.tokens), math.max(0, more.cost), alerts }
