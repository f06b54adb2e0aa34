-- Shares: how many open tasks a tenant has, and about how many bytes of Redis its tasks and results take.
--
-- An open task is charged with its data; when it ends, its result takes their place until the result's time to live is
-- over. Both are charged once and given back once: the id in agent:tenant_open decides. A task whose hash expired is
-- still in agent:open, from which the sweeper gives it back.
--
-- Uses shared/queue/functions/turns: tenant_of
--
-- agent:tenants                zset  tenant -> bytes that it holds
-- agent:tenant_open:<tenant>   zset  id -> bytes charged for the open task
-- agent:tenant_kept:<tenant>   hash  instant (ms) -> bytes of ended tasks that are forgotten by then
local TENANTS_KEY = 'agent:tenants'
-- What Redis takes for a task beside its data: its hashes, its places in lists and sets.
local TASK_BYTES = 2000
-- Of an ended task.
local ENDED_BYTES = 1000
-- Instants per time to live, which bounds the hash; a result counts this part of its time too long.
local INSTANTS = 64
-- Tenants that are added up for the share of each.
local LARGEST = 100

local function add_held(tenant, bytes)
  if tonumber(redis.call('ZINCRBY', TENANTS_KEY, bytes, tenant)) <= 0 then
    redis.call('ZREM', TENANTS_KEY, tenant)
  end
end

-- Charge an open task of so many bytes of data to its tenant.
local function charge(id, data_bytes)
  local tenant = tenant_of(id)
  if redis.call('ZADD', 'agent:tenant_open:' .. tenant, 'NX', data_bytes + TASK_BYTES, id) == 1 then
    add_held(tenant, data_bytes + TASK_BYTES)
  end
end

-- Give back what an open task was charged, and charge what is kept of it (bytes) for `keep_ms`; 0 bytes: nothing is.
local function discharge(id, kept_bytes, keep_ms, now_ms)
  local tenant = tenant_of(id)
  local charged = redis.call('ZSCORE', 'agent:tenant_open:' .. tenant, id)
  if not charged then
    return
  end
  redis.call('ZREM', 'agent:tenant_open:' .. tenant, id)
  if kept_bytes > 0 then
    kept_bytes = kept_bytes + ENDED_BYTES
    local step = math.ceil(keep_ms / INSTANTS)
    local instant = (math.floor((now_ms + keep_ms) / step) + 1) * step
    local kept_key = 'agent:tenant_kept:' .. tenant
    if redis.call('HINCRBY', kept_key, string.format('%d', instant), kept_bytes) == kept_bytes then
      -- Twice the time, in which the sweeper takes it off before it expires.
      redis.call('PEXPIRE', kept_key, 2 * keep_ms, 'NX')
      redis.call('PEXPIRE', kept_key, 2 * keep_ms, 'GT')
    end
  end
  add_held(tenant, kept_bytes - charged)
end

-- Take off what is forgotten by now of a tenant's ended tasks. Without open tasks the rest is all that it holds.
local function settle_share(tenant, now_ms)
  local kept_key, over, rest = 'agent:tenant_kept:' .. tenant, 0, 0
  local kept = redis.call('HGETALL', kept_key)
  for i = 1, #kept, 2 do
    local bytes = tonumber(kept[i + 1]) or 0
    if (tonumber(kept[i]) or 0) <= now_ms then
      redis.call('HDEL', kept_key, kept[i])
      over = over + bytes
    else
      rest = rest + bytes
    end
  end
  if redis.call('EXISTS', 'agent:tenant_open:' .. tenant) == 0 then
    redis.call('ZREM', TENANTS_KEY, tenant)
    over = -rest
  end
  if over ~= 0 then
    add_held(tenant, -over)
  end
end

-- Whether a tenant holds more than an equal part of what all tenants hold. Another tenant than the default one leaves
-- room for one more, which may come.
local function is_above_share(tenant, now_ms)
  settle_share(tenant, now_ms)
  local held, sum = tonumber(redis.call('ZSCORE', TENANTS_KEY, tenant)) or 0, 0
  local largest = redis.call('ZRANGE', TENANTS_KEY, 0, LARGEST - 1, 'REV', 'WITHSCORES')
  for i = 2, #largest, 2 do
    sum = sum + largest[i]
  end
  return held > sum / math.max(redis.call('ZCARD', TENANTS_KEY), tenant == 'default' and 1 or 2)
end

-- Returns why a tenant may not submit a task of so many bytes, and how much it has; nothing: it may. 0: no limit.
local function refused(tenant, data_bytes, most_tasks, most_bytes, now_ms)
  local tasks = most_tasks > 0 and redis.call('ZCARD', 'agent:tenant_open:' .. tenant) or 0
  if most_tasks > 0 and tasks >= most_tasks then
    return 'tenant_tasks', tasks
  end
  local needed = data_bytes + TASK_BYTES
  local held = most_bytes > 0 and tonumber(redis.call('ZSCORE', TENANTS_KEY, tenant) or 0) or 0
  if most_bytes > 0 and held + needed > most_bytes then
    settle_share(tenant, now_ms)
    held = tonumber(redis.call('ZSCORE', TENANTS_KEY, tenant) or 0)
    return held + needed > most_bytes and 'tenant_bytes' or nil, held
  end
end
