#!lua flags=allow-oom
-- Prelude of the reserve, settle and expire scripts: the records, the scopes, and how used and held are booked on them.
-- allow-oom, because a call that was made must be booked even with memory full; it grows Redis by little.
-- Returns nothing: it defines the functions below for the script that it is put before.

local DAY_MS = 86400000
local KEEP_DAY_MS = 8 * DAY_MS -- from its first moment: 7 days after its end
local KEEP_TASK_MS = 2 * DAY_MS
local KEEP_MS = { held = 7 * DAY_MS, expired = 3600000, settled = 600000 }
local UNITS = { "tokens", "cost" }

local function clock_ms(argument)
  if argument ~= "" then
    return tonumber(argument)
  end
  local time = redis.call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Neither %d nor tostring: both spoil the digits of large doubles.
local function digits(number)
  return string.format("%.0f", number)
end

local function read_record(reservation)
  local pattern = "^(%l+) ?(%d*) ?(%d*) ?(%d*) ?(%S*) ?(%S*) ?(.*)$"
  local state, day, tokens, cost, user, task, model = string.match(redis.call("GET", reservation) or "", pattern)
  return state
    and { state = state, day = day, tokens = tonumber(tokens), cost = tonumber(cost), user = user, task = task, model = model }
end

-- The model comes last, because it is the one part that may contain spaces.
local function write_record(reservation, record)
  local tokens, cost = digits(record.tokens), digits(record.cost)
  local parts = { record.state, record.day, tokens, cost, record.user, record.task, record.model }
  redis.call("SET", reservation, table.concat(parts, " "), "PX", KEEP_MS[record.state])
end

-- Narrowest first, so that a refusal which no new day will lift is the one that is told.
local function scopes_of(record)
  local prefix = "agent:budget:" .. record.day
  local scopes = {
    { name = "user", subject = record.user, key = prefix .. ":user:" .. record.user },
    { name = "global", subject = "", key = prefix .. ":global" },
  }
  if record.task ~= "" then
    table.insert(scopes, 1, { name = "task", subject = record.task, key = "agent:budget:task:" .. record.task })
  end
  for _, scope in ipairs(scopes) do
    local field = redis.call(
      "HMGET", scope.key, "used_tokens", "held_tokens", "alerted_tokens", "used_cost", "held_cost", "alerted_cost"
    )
    scope.is_new = not field[2]
    for i, unit in ipairs(UNITS) do
      local used, held, alerted = unpack(field, 3 * i - 2, 3 * i)
      scope[unit] = { used = tonumber(used or 0), held = tonumber(held or 0), alerted = tonumber(alerted or 0) }
    end
  end
  return scopes
end

-- limit * percent / 100, rounded up; in two parts, because the product alone may pass 2^53.
local function level_of(limit, percent)
  local rest = math.fmod(limit, 100)
  return (limit - rest) / 100 * percent + math.ceil(rest * percent / 100)
end

local function raise_alerts(record, scope, unit, limits, alerts)
  local limit, used = limits[scope.name][unit], scope[unit].used
  for _, percent in ipairs(limit and limits.alert_percents or {}) do
    if percent > scope[unit].alerted and used >= level_of(limit, percent) then
      redis.call("HSET", scope.key, "alerted_" .. unit, percent)
      table.insert(alerts, { scope.name, scope.subject, unit, percent, used, limit, tonumber(record.day) })
      redis.call(
        "XADD", alerts.stream, "MAXLEN", "~", 1000, "*",
        "scope", scope.name, "subject", scope.subject, "unit", unit, "percent", percent,
        "used", digits(used), "limit", digits(limit), "day", record.day
      )
      redis.call("PEXPIRE", alerts.stream, KEEP_DAY_MS)
    end
  end
end

-- Adds to what a record's scopes hold and have used; raises the alerts that this crosses.
local function book(record, held, used, limits, alerts)
  for _, scope in ipairs(scopes_of(record)) do
    if not scope.is_new then -- else Redis forgot it: booking would bring it back without a TTL
      for _, unit in ipairs(UNITS) do
        scope[unit].held = scope[unit].held + held[unit]
        scope[unit].used = scope[unit].used + used[unit]
        raise_alerts(record, scope, unit, limits, alerts)
      end
      redis.call(
        "HSET", scope.key, "used_tokens", digits(scope.tokens.used), "held_tokens", digits(scope.tokens.held),
        "used_cost", digits(scope.cost.used), "held_cost", digits(scope.cost.held)
      )
    end
  end
end

-- Adds to the day's totals of a model: input, output and expired tokens, calls, estimated calls, cost.
local function count(record, added)
  local models = "agent:budget:" .. record.day .. ":models"
  local before = redis.call("HGET", models, record.model)
  local totals, next_total = {}, string.gmatch(before or "0 0 0 0 0 0", "%d+")
  for i = 1, 6 do
    totals[i] = digits(tonumber(next_total()) + added[i])
  end
  redis.call("HSET", models, record.model, table.concat(totals, " "))
  if not before then
    redis.call("PEXPIRE", models, KEEP_DAY_MS)
  end
end
