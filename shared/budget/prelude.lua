-- Prelude of reserve, settle and expire: the policy, scopes, and records of reservations.
-- The three are allow-oom: a call that was made must be booked even with memory full; it grows Redis by little.
--
-- Numbers go to redis.call as they are: Redis writes whole ones exactly. In strings it takes %d, as tostring spoils the
-- digits of large ones.
--
-- Uses shared/budget/policy: amount_of, in_force, offset_of

local DAY_MS = 86400000
local MODEL_STATS = "agent:budget:model_stats"
local POLICY = "agent:budget:policy"
local DEFAULT_TENANT = "default"
local NO_LIMIT = {}

-- Put the caller's own value in the place of each that the policy lacks. `values` begins with two of other fields.
local function fill_in(values, seed)
  for i, name in ipairs({ "request", "utc_offset_s", "hold", "alert_percents", "task", "tenant", "user", "global" }) do
    if not values[i + 2] then
      values[i + 2] = cjson.decode(seed)[name]
      redis.call("HSETNX", POLICY, name, values[i + 2])
    end
  end
end

-- The amounts of a limit, and the name of its field that is none; nil for no limit.
local function limit_of(name, all, own_name, own)
  if all == "- -" and not own then
    return NO_LIMIT
  end
  local tokens, cost, has_tokens, has_cost = in_force(own, all)
  local most_tokens, tokens_are_readable = amount_of(tokens)
  local most_cost, cost_is_readable = amount_of(cost)
  local unreadable = not tokens_are_readable and (has_tokens and own_name or name)
    or not cost_is_readable and (has_cost and own_name or name) or nil
  return { tokens = most_tokens, cost = most_cost }, unreadable
end

-- The fleet's limits, which are the same for every caller: a field that is missing is the caller's own from then on.
-- A table of request, hold, alert_percents, utc_offset_ms, and of tokens and cost (nil for no limit) by scope; a
-- tenant's or user's own limit goes before the one for all. `unreadable` is the name of a field that is no limit, on
-- which no call may start; an offset that cannot be read is the caller's own.
local function read_policy(tenant, user, seed)
  local own_tenant, own_user = "tenant:" .. tenant, "user:" .. user
  local values = redis.call("HMGET", POLICY, own_tenant, own_user,
    "request", "utc_offset_s", "hold", "alert_percents", "task", "tenant", "user", "global")
  local tenants_own, users_own, request, offset_s, hold, percents, of_task, of_tenant, of_user, of_fleet = unpack(values, 1, 10)
  if not (request and offset_s and hold and percents and of_task and of_tenant and of_user and of_fleet) then
    fill_in(values, seed)
    tenants_own, users_own, request, offset_s, hold, percents, of_task, of_tenant, of_user, of_fleet = unpack(values, 1, 10)
  end
  local per_request, is_readable = amount_of(request)
  local task, bad_task = limit_of("task", of_task)
  local fleet, bad_fleet = limit_of("global", of_fleet)
  local tenants, bad_tenant = limit_of("tenant", of_tenant, own_tenant, tenants_own)
  local users, bad_user = limit_of("user", of_user, own_user, users_own)
  return {
    hold = hold, alert_percents = percents, request = per_request, task = task, tenant = tenants, user = users, global = fleet,
    utc_offset_ms = (offset_of(offset_s) or cjson.decode(seed).utc_offset_s) * 1000,
    unreadable = not is_readable and "request" or bad_task or bad_fleet or bad_tenant or bad_user,
  }
end

-- A new reservation's tenant and task, empty for one that is not booked: a task without a limit, and the default tenant
-- without one, which most calls are of, and which then is the fleet.
local function booked(limits, tenant, task)
  local is_limited = limits.tenant.tokens or limits.tenant.cost
  return (is_limited or tenant ~= DEFAULT_TENANT) and tenant or "",
    (limits.task.tokens or limits.task.cost) and task or ""
end

-- The record's scopes, narrowest first, so that a refusal which no new day will lift is the one that is reported.
local function scopes_of(record)
  local prefix, scopes = "agent:budget:" .. record.day, {}
  if record.task ~= "" then
    scopes[1] = { name = "task", subject = record.task, key = "agent:budget:task:" .. record.task }
  end
  scopes[#scopes + 1] = { name = "user", subject = record.user, key = prefix .. ":user:" .. record.user }
  if record.tenant ~= "" then
    scopes[#scopes + 1] = { name = "tenant", subject = record.tenant, key = prefix .. ":tenant:" .. record.tenant }
  end
  scopes[#scopes + 1] = { name = "global", subject = "", key = prefix .. ":global" }
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
  redis.call("SET", key, string.format("%s %s %d %d %d %d %s %s %s %s", record.state, record.day, record.tokens,
    record.cost, record.input_tokens, record.input_cost, record.tenant, record.user, record.task, record.model),
    "PX", ttl_ms)
end

local function forget_scope_later(scope)
  redis.call("PEXPIRE", scope.key, scope.name == "task" and 2 * DAY_MS or 8 * DAY_MS)
end
