-- Prelude of reserve, settle and expire: scopes, records of reservations, what is booked, what is known of a model.
-- The three are allow-oom: a call that was made must be booked even with memory full; it grows Redis by little.
--
-- Numbers go to redis.call as they are: Redis writes whole ones exactly. In strings it takes %.0f, as %d and tostring
-- spoil the digits of large doubles.
--
-- Uses shared/budget/policy: amount_of, in_force, offset_of

local DAY_MS = 86400000
local MODEL_STATS = "agent:budget:model_stats"
local POLICY = "agent:budget:policy"
local MODELS, STATS_DAYS, STATS_CALLS = 500, 30, 1000
local BUCKETS, SMALLEST_BUCKET, BUCKET_GROWTH = 24, 8, 1.5

-- The fleet's limits, which are the same for every caller: a field that is missing is the caller's own from then on.
-- A table of request, hold, alert_percents, utc_offset_ms, and of tokens and cost (nil for no limit) by scope; a
-- tenant's or user's own limit goes before the one for all. `unreadable` is the name of a field that is no limit, on
-- which no call may start; an offset that cannot be read is the caller's own.
local function read_policy(tenant, user, seed)
  local names = { "request", "utc_offset_s", "hold", "alert_percents", "task", "tenant", "user", "global" }
  local own_tenant, own_user = "tenant:" .. tenant, "user:" .. user
  local found = redis.call("HMGET", POLICY, own_tenant, own_user, unpack(names))
  local values = { [own_tenant] = found[1], [own_user] = found[2] }
  for i, name in ipairs(names) do
    values[name] = found[i + 2]
    if not values[name] then
      values[name] = cjson.decode(seed)[name]
      redis.call("HSETNX", POLICY, name, values[name])
    end
  end
  local policy = {
    hold = values.hold, alert_percents = values.alert_percents,
    utc_offset_ms = (offset_of(values.utc_offset_s) or cjson.decode(seed).utc_offset_s) * 1000,
  }
  local function amount(word, name)
    local number, is_readable = amount_of(word)
    if not is_readable then
      policy.unreadable = name
    end
    return number
  end
  local function limit(name, own)
    local tokens, cost, has_tokens, has_cost = in_force(own and values[own], values[name])
    return { tokens = amount(tokens, has_tokens and own or name), cost = amount(cost, has_cost and own or name) }
  end
  policy.request = amount(values.request, "request")
  policy.task, policy.global = limit("task"), limit("global")
  policy.tenant, policy.user = limit("tenant", own_tenant), limit("user", own_user)
  return policy
end

-- The record's scopes, narrowest first, so that a refusal which no new day will lift is the one that is reported.
local function scopes_of(record)
  local prefix = "agent:budget:" .. record.day
  local scopes = {
    { name = "user", subject = record.user, key = prefix .. ":user:" .. record.user },
    { name = "tenant", subject = record.tenant, key = prefix .. ":tenant:" .. record.tenant },
    { name = "global", subject = "", key = prefix .. ":global" },
  }
  if record.task ~= "" then
    table.insert(scopes, 1, { name = "task", subject = record.task, key = "agent:budget:task:" .. record.task })
  end
  return scopes
end

-- Numbers of a record: day, held tokens and cost (once expired: what was charged), of these the input's.
local RECORD = "^(%l+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S*) (%S*) (%S*) (.*)$"

local function read_record(key)
  local state, day, tokens, cost, input_tokens, input_cost, tenant, user, task, model =
    string.match(redis.call("GET", key) or "", RECORD)
  return state and {
    state = state, day = day, tokens = tonumber(tokens), cost = tonumber(cost),
    input_tokens = tonumber(input_tokens), input_cost = tonumber(input_cost),
    tenant = tenant, user = user, task = task, model = model,
  }
end

-- The model comes last, because it is the one part that may contain spaces.
local function write_record(key, record, ttl_ms)
  redis.call("SET", key, string.format("%s %s %.0f %.0f %.0f %.0f %s %s %s %s", record.state, record.day, record.tokens,
    record.cost, record.input_tokens, record.input_cost, record.tenant, record.user, record.task, record.model),
    "PX", ttl_ms)
end

local function forget_scope_later(scope)
  redis.call("PEXPIRE", scope.key, scope.name == "task" and 2 * DAY_MS or 8 * DAY_MS)
end

-- limit * percent / 100, rounded up; in two parts, because the product alone may pass 2^53.
local function level_of(limit, percent)
  local rest = math.fmod(limit, 100)
  return (limit - rest) / 100 * percent + math.ceil(rest * percent / 100)
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
  for word in string.gmatch(limits.alert_percents, "%d+") do
    local percent = tonumber(word)
    local is_new = percent > (tonumber(alerted) or 0)
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
    local held_tokens, held_cost, used_tokens, used_cost, alerted_tokens, alerted_cost, tokens_limit, cost_limit =
      unpack(redis.call(
        "HMGET", scope.key, "held_tokens", "held_cost", "used_tokens", "used_cost", "alerted_tokens", "alerted_cost",
        "alerted_limit_tokens", "alerted_limit_cost"
      ))
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
      raise_alerts(record.day, scope, "tokens", used_tokens, alerted_tokens, tokens_limit, limits, alerts)
      raise_alerts(record.day, scope, "cost", used_cost, alerted_cost, cost_limit, limits, alerts)
    end
  end
end

-- Add to the day's totals of a record's model.
local function count(record, input_tokens, output_tokens, expired_tokens, calls, estimated_calls, cost)
  local models = "agent:budget:" .. record.day .. ":models"
  local totals = redis.call("HGET", models, record.model)
  local sums, more = {}, { input_tokens, output_tokens, expired_tokens, calls, estimated_calls, cost }
  for number in string.gmatch(totals or "", "-?%d+") do
    sums[#sums + 1] = tonumber(number)
  end
  for i = 1, #more do
    sums[i] = math.max(0, (sums[i] or 0) + more[i])
  end
  redis.call("HSET", models, record.model, string.format("%.0f %.0f %.0f %.0f %.0f %.0f", unpack(sums)))
  if not totals then
    redis.call("PEXPIRE", models, 8 * DAY_MS)
  end
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

local function learn(model, output_tokens, text_bytes, text_tokens)
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
    stats[i] = string.format("%.0f", stats[i] + more)
  end
  add(1, 1)
  add(2, output_tokens)
  add(3, text_bytes)
  add(4, text_tokens)
  add(4 + bucket, 1)
  if tonumber(stats[1]) >= STATS_CALLS then
    for i = 1, #stats do
      stats[i] = string.format("%.0f", math.floor(stats[i] / 2))
    end
  end
  redis.call("HSET", MODEL_STATS, model, table.concat(stats, " "))
  redis.call("PEXPIRE", MODEL_STATS, STATS_DAYS * DAY_MS)
end
