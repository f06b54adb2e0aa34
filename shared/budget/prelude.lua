-- Prelude of the settle and expire scripts: the one place where what is held becomes used.
-- Both are allow-oom: a call that was made must be booked even with memory full; it grows Redis by little.
--
-- Numbers go to redis.call as they are: Redis writes whole ones exactly. In strings it takes %.0f, as %d and tostring
-- spoil the digits of large doubles.

local DAY_MS = 86400000

local function read_record(reservation)
  local value = redis.call("GET", reservation)
  if not value then
    return nil
  end
  local state, day, tokens, cost, user, task, model = value:match("^(%l+) (%d+) (%d+) (%d+) (%S*) (%S*) (.*)$")
  tokens, cost = tonumber(tokens), tonumber(cost)
  return { state = state, day = day, tokens = tokens, cost = cost, user = user, task = task, model = model, value = value }
end

-- limit * percent / 100, rounded up; in two parts, because the product alone may pass 2^53.
local function level_of(limit, percent)
  local rest = math.fmod(limit, 100)
  return (limit - rest) / 100 * percent + math.ceil(rest * percent / 100)
end

local function raise_alerts(day, scope, unit, used, alerted, limits, alerts)
  local limit = limits[scope.name][unit]
  for _, percent in ipairs(limit and limits.alert_percents or {}) do
    if percent > tonumber(alerted or 0) and used >= level_of(limit, percent) then
      redis.call("HSET", scope.key, "alerted_" .. unit, percent)
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

-- Adds to what a record's scopes hold and have used; raises the alerts that this crosses.
local function book(record, held, used, limits, alerts)
  local prefix = "agent:budget:" .. record.day
  local scopes = {
    { name = "user", subject = record.user, key = prefix .. ":user:" .. record.user },
    { name = "global", subject = "", key = prefix .. ":global" },
  }
  if record.task ~= "" then
    table.insert(scopes, 1, { name = "task", subject = record.task, key = "agent:budget:task:" .. record.task })
  end
  for _, scope in ipairs(scopes) do
    local held_tokens, held_cost, used_tokens, used_cost, alerted_tokens, alerted_cost = unpack(redis.call(
      "HMGET", scope.key, "held_tokens", "held_cost", "used_tokens", "used_cost", "alerted_tokens", "alerted_cost"
    ))
    if held_tokens then -- else Redis forgot the scope: booking would bring it back without a TTL
      used_tokens, used_cost = (used_tokens or 0) + used.tokens, (used_cost or 0) + used.cost
      redis.call(
        "HSET", scope.key, "held_tokens", held_tokens + held.tokens, "held_cost", held_cost + held.cost,
        "used_tokens", used_tokens, "used_cost", used_cost
      )
      raise_alerts(record.day, scope, "tokens", used_tokens, alerted_tokens, limits, alerts)
      raise_alerts(record.day, scope, "cost", used_cost, alerted_cost, limits, alerts)
    end
  end
end

-- Adds to the day's totals of a record's model.
local function count(record, input_tokens, output_tokens, expired_tokens, calls, estimated_calls, cost)
  local models = "agent:budget:" .. record.day .. ":models"
  local totals = redis.call("HGET", models, record.model)
  local i, o, x, n, e, c = string.match(totals or "0 0 0 0 0 0", "(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)")
  local sums = { i + input_tokens, o + output_tokens, x + expired_tokens, n + calls, e + estimated_calls, c + cost }
  redis.call("HSET", models, record.model, string.format("%.0f %.0f %.0f %.0f %.0f %.0f", unpack(sums)))
  if not totals then
    redis.call("PEXPIRE", models, 8 * DAY_MS)
  end
end
