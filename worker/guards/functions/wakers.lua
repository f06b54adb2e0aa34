-- What the decisions of the breaker and the budget mean for tasks that wait: it is composed here, so that breaker, budget
-- and queue know nothing of each other. Things are named as in shared/queue/waits.py.
--
-- Calls shared/queue/scripts/waiting/await
-- Calls shared/queue/scripts/waiting/wake

-- Tasks that a settled call lets try a budget: more than one, in case the first finds no room.
local PER_SETTLE = 2
-- A busy budget is tried again after so long (ms), settled calls or not.
local BUSY_MS = 5000

-- The thing of a breaker, from the KEYS of its scripts: its key without `agent:`.
local function breaker_thing(keys)
  return keys[1]:sub(7)
end

-- Follow a report, given its KEYS, ARGV and reply: let the tasks go on that wait for a breaker which lets calls through,
-- or say until when it does not. A probe that was given back lets one try.
local function follow_report(keys, arguments, reported)
  local outcome, pause_ms = arguments[4], tonumber(arguments[5])
  local before, after, open_ms, cooldown_ms = reported[1], reported[2], reported[5], reported[6]
  if after == 'open' and before ~= after then
    await({}, {breaker_thing(keys), open_ms, ''})
  elseif outcome == 'rate_limited' and pause_ms > 0 then
    await({}, {breaker_thing(keys), cooldown_ms, ''})
  elseif after == 'closed' and (outcome == 'ok' or before ~= after) and cooldown_ms == 0 then
    wake({}, {0, '', breaker_thing(keys)})
  elseif after == 'half_open' and outcome == 'cancel' then
    wake({}, {1, '', breaker_thing(keys)})
  end
end

local function wake_budgets(limit, tenant, user, task)
  wake({}, {limit, '', 'budget:global', 'budget:tenant:' .. tenant, 'budget:user:' .. user, 'budget:task:' .. task})
end

-- Follow a settled call, given the payer's tenant, user and task: a few tasks may find room in its budgets.
local function follow_settle(tenant, user, task)
  wake_budgets(PER_SETTLE, tenant, user, task)
end

-- Follow the end of a reservation whose call was never settled, given its payer: it may have held much.
local function follow_expiry(tenant, user, task)
  wake_budgets(0, tenant, user, task)
end

-- Follow a budget that is busy: its scope, and the payer.
local function follow_busy(scope, tenant, user, task)
  local subjects = {tenant = tenant, user = user, task = task}
  await({}, {'budget:' .. scope .. (subjects[scope] and ':' .. subjects[scope] or ''), BUSY_MS, ''})
end
