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
-- ARGV[6] items in all at most
-- ARGV[7] when the items were put (us) behind which to go on in the first namespace; empty: it is not begun yet
-- Returns {1 there is more | 0 that was all, the last namespace that was looked at, when its last item was put, if there
-- are more of it, else empty, then in turns a namespace that has items and a list of the keys of its newest items, in
-- the order in which they were put, each followed by when that was (us)}
local register_key = KEYS[1]
local tenant, first, last = ARGV[1], ARGV[2], ARGV[3]
local namespaces, each, room, behind = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local now_ms = clock('')

-- From the oldest to the newest: an item that is put again between two scripts is met again, and none is missed.
local function newest_items(keys, held, over)
  if each == 0 then
    return {}
  end
  if behind ~= '' then
    return redis.call('ZRANGE', keys.order, '(' .. behind, '+inf', 'BYSCORE', 'LIMIT', 0, room, 'WITHSCORES')
  end
  -- Those whose time is over may stand among the newest.
  local start = math.max(0, held - each - over)
  return redis.call('ZRANGE', keys.order, start, start + room - 1, 'WITHSCORES')
end

-- Leave out the items whose time is over.
local function live_items(keys, newest)
  local names, live = {}, {}
  for i = 1, #newest, 2 do
    names[#names + 1] = newest[i]
  end
  for i, until_ms in ipairs(redis.call('ZMSCORE', keys.expiry, unpack(names))) do
    if not until_ms or tonumber(until_ms) > now_ms then
      live[#live + 1], live[#live + 2] = newest[2 * i - 1], newest[2 * i]
    end
  end
  return live
end

local found = redis.call('ZRANGE', register_key, first, last, 'BYLEX', 'LIMIT', 0, namespaces)
local reply = {#found < namespaces and 0 or 1, '', ''}
for _, namespace in ipairs(found) do
  local keys = item_keys(tenant, namespace)
  sweep_items(keys, now_ms)
  local held, over = redis.call('HLEN', keys.items), redis.call('ZCOUNT', keys.expiry, '-inf', now_ms)
  reply[2] = namespace
  if held == 0 then
    redis.call('ZREM', register_key, namespace)
  elseif held > over then
    local newest = newest_items(keys, held, over)
    reply[#reply + 1] = namespace
    reply[#reply + 1] = over > 0 and newest[1] and live_items(keys, newest) or newest
    room = room - #newest / 2
    if room == 0 and each > 0 then
      reply[1], reply[3] = 1, newest[#newest]
      break
    end
  end
  behind = ''
end
return reply
