-- What settle and expire book: used amounts and their alerts, the totals of models, and what is known of a model's calls.
--
-- Uses shared/budget/prelude: DAY_MS, MODEL_STATS, scopes_of, forget_scope_later

local MODELS, STATS_DAYS, STATS_CALLS = 500, 30, 1000
local LEARNED, LEARNED_EVERY = 200, 4
local BUCKETS, SMALLEST_BUCKET, BUCKET_GROWTH = 24, 8, 1.5

-- limit * percent / 100, rounded up; in two parts, because the product alone may pass 2^53.
local function level_of(limit, percent)
  local rest = math.fmod(limit, 100)
  return (limit - rest) / 100 * percent + math.ceil(rest * percent / 100)
end

-- The percents of a limit at which an alert is raised, as numbers.
local function percents_of(limits)
  if not limits.percents then
    limits.percents = {}
    for percent in string.gmatch(limits.alert_percents, "%d+") do
      table.insert(limits.percents, tonumber(percent))
    end
  end
  return limits.percents
end

-- What was raised counts only for the limit of that time, or a lower one: a raised limit raises its alerts again.
local function raise_alerts(day, scope, unit, used, alerted, alerted_limit, limits, alerts)
  local limit = limits[scope.name][unit]
  if not limit then
    return
  end
  if (tonumber(alerted_limit) or limit) < limit then
    alerted = 0
  end
  alerted = tonumber(alerted) or 0
  for _, percent in ipairs(percents_of(limits)) do
    local is_new = percent > alerted
    if is_new and used < level_of(limit, percent) then
      return -- nor are those above it
    end
    if is_new then
      redis.call("HSET", scope.key, "alerted_" .. unit, percent, "alerted_limit_" .. unit, limit)
      table.insert(alerts, { scope.name, scope.subject, unit, percent, used, limit, tonumber(day) })
      redis.call(
        "XADD", alerts.stream, "MAXLEN", "~", 1000, "*",
        "scope", scope.name, "subject", scope.subject, "unit", unit, "percent", percent,
        "used", used, "limit", limit, "day", day
      )
      redis.call("PEXPIRE", alerts.stream, 7 * DAY_MS)
    end
  end
end

-- Add to what a record's scopes hold and have used, never below 0, as a scope may have been reset or lost; raise the
-- alerts that this crosses. A scope that Redis has forgotten is left alone, unless `is_lost`: the reservation was lost
-- with it. Numbers that are none count as 0.
local function book(record, held, used, limits, alerts, is_lost)
  for _, scope in ipairs(scopes_of(record)) do
    local limit = limits[scope.name]
    local held_tokens, held_cost, used_tokens, used_cost, tokens_alerted, tokens_limit, cost_alerted, cost_limit =
      unpack((limit.tokens or limit.cost)
        and redis.call("HMGET", scope.key, "held_tokens", "held_cost", "used_tokens", "used_cost",
          "alerted_tokens", "alerted_limit_tokens", "alerted_cost", "alerted_limit_cost")
        or redis.call("HMGET", scope.key, "held_tokens", "held_cost", "used_tokens", "used_cost"))
    if held_tokens or is_lost then
      used_tokens = math.max(0, (tonumber(used_tokens) or 0) + used.tokens)
      used_cost = math.max(0, (tonumber(used_cost) or 0) + used.cost)
      redis.call(
        "HSET", scope.key, "held_tokens", math.max(0, (tonumber(held_tokens) or 0) + held.tokens),
        "held_cost", math.max(0, (tonumber(held_cost) or 0) + held.cost),
        "used_tokens", used_tokens, "used_cost", used_cost
      )
      if not held_tokens then
        forget_scope_later(scope)
      end
      raise_alerts(record.day, scope, "tokens", used_tokens, tokens_alerted, tokens_limit, limits, alerts)
      raise_alerts(record.day, scope, "cost", used_cost, cost_alerted, cost_limit, limits, alerts)
    end
  end
end

-- Add to the day's totals of a record's model. Returns its calls of the day.
local function count(record, input_tokens, output_tokens, expired_tokens, calls, estimated_calls, cost)
  local models = "agent:budget:" .. record.day .. ":models"
  local totals = redis.call("HGET", models, record.model)
  local more = { input_tokens, output_tokens, expired_tokens, calls, estimated_calls, cost }
  local sums = { string.match(totals or "", "^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$") }
  for i = 1, #more do
    sums[i] = math.max(0, (sums[i] or 0) + more[i])
  end
  redis.call("HSET", models, record.model, string.format("%d %d %d %d %d %d", unpack(sums)))
  if not totals then
    redis.call("PEXPIRE", models, 8 * DAY_MS)
  end
  return sums[4]
end

-- What is known of a model's calls: calls, output tokens, bytes and tokens of text, then the calls per bucket of output
-- tokens: up to 8, up to 12, ... each 1.5 times the one before. All are halved at 1,000 calls, so that new calls count.
local function read_stats(model)
  local stats = {}
  for number in string.gmatch(redis.call("HGET", MODEL_STATS, model) or "", "%d+") do
    stats[#stats + 1] = tonumber(number)
  end
  return #stats == 4 + BUCKETS and stats or nil
end

-- A day's first LEARNED calls of a model tell about it, then one in LEARNED_EVERY.
local function is_learned(calls_of_day)
  return calls_of_day <= LEARNED or calls_of_day % LEARNED_EVERY == 0
end

local function learn(model, calls_of_day, output_tokens, text_bytes, text_tokens)
  local known = redis.call("HGET", MODEL_STATS, model)
  local stats = {}
  for number in string.gmatch(known or "", "%d+") do
    stats[#stats + 1] = number
  end
  if #stats ~= 4 + BUCKETS then
    if not known and redis.call("HLEN", MODEL_STATS) >= MODELS then
      return
    end
    for i = 1, 4 + BUCKETS do
      stats[i] = 0
    end
  end
  local bucket, most = 1, SMALLEST_BUCKET
  while output_tokens > most and bucket < BUCKETS do
    bucket, most = bucket + 1, most * BUCKET_GROWTH
  end
  local function add(i, more)
    stats[i] = string.format("%d", stats[i] + more)
  end
  add(1, 1)
  add(2, output_tokens)
  add(3, text_bytes)
  add(4, text_tokens)
  add(4 + bucket, 1)
  if tonumber(stats[1]) >= STATS_CALLS then
    for i = 1, #stats do
      stats[i] = string.format("%d", math.floor(stats[i] / 2))
    end
  end
  redis.call("HSET", MODEL_STATS, model, table.concat(stats, " "))
  if not known or calls_of_day == 1 then
    redis.call("PEXPIRE", MODEL_STATS, STATS_DAYS * DAY_MS)
  end
end
