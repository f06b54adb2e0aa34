-- List namespaces in the order of their labels, and the newest items of each.
--
-- Uses shared/connections/clock: clock
-- Uses worker/state/store/scripts/items: item_keys, sweep_items
--
-- KEYS[1] agent:store_namespaces:<tenant>  zset  namespaces of the tenant, all with the score 0
-- ARGV[1] tenant
-- ARGV[2] first namespace, as ZRANGE BYLEX wants it
-- ARGV[3] last namespace, likewise
-- ARGV[4] namespaces at most
-- ARGV[5] items of each namespace at most
-- ARGV[6] items in all after which no further namespace is looked at
-- Returns {1 there are further namespaces | 0 there are none, the last one that was looked at, then in turns a namespace
-- that has items and a list of the keys of its newest items, each followed by when it was updated (us)}
local register_key = KEYS[1]
local tenant, first, last = ARGV[1], ARGV[2], ARGV[3]
local namespaces, each, enough = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local now_ms, items = clock(''), 0

local found = redis.call('ZRANGE', register_key, first, last, 'BYLEX', 'LIMIT', 0, namespaces)
local reply = {#found < namespaces and 0 or 1, ''}
for _, namespace in ipairs(found) do
  if items >= enough then
    reply[1] = 1
    break
  end
  local keys = item_keys(tenant, namespace)
  sweep_items(keys, now_ms)
  local held, over = redis.call('HLEN', keys.items), redis.call('ZCOUNT', keys.expiry, '-inf', now_ms)
  if held == 0 then
    redis.call('ZREM', register_key, namespace)
  elseif held > over then
    local newest = {}
    if each > 0 then
      -- Those whose time is over may stand among the newest.
      newest = redis.call('ZREVRANGE', keys.order, 0, each + over - 1, 'WITHSCORES')
    end
    reply[#reply + 1] = namespace
    reply[#reply + 1] = newest
    items = items + #newest / 2
  end
  reply[2] = namespace
end
return reply
