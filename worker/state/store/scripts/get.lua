#!lua flags=allow-oom
-- Read items of one namespace.
--
-- Uses shared/connections/clock: clock
-- Uses worker/state/store/scripts/items: item_keys, read_parts, read_header, is_item_over, outlive, keep_expiry
--
-- KEYS[1] agent:store_namespaces:<tenant>  zset  namespaces of the tenant, all with the score 0
-- ARGV[1] tenant
-- ARGV[2] namespace; each label ends with a NUL
-- ARGV[3] 1: let those that have a time to live begin it anew; empty: leave it
-- ARGV[4..] keys of the items, at most a few hundred
-- Returns each item, or false where there is none, of as many keys as there is room for
local register_key = KEYS[1]
local tenant, namespace, is_refreshed = ARGV[1], ARGV[2], ARGV[3] == '1'
local now_ms, keys = clock(''), item_keys(tenant, namespace)

local longest_ms = 0
local found = read_parts({unpack(ARGV, 4)}, function(name)
  return redis.call('HGET', keys.items, name)
end)
for i, item in ipairs(found) do
  local created_us, ttl_ms = nil, 0
  if item then
    created_us, ttl_ms = read_header(item)
  end
  if created_us and ttl_ms > 0 then
    if is_item_over(keys, ARGV[3 + i], now_ms) then
      found[i] = false
    elseif is_refreshed then
      redis.call('ZADD', keys.expiry, now_ms + ttl_ms, ARGV[3 + i])
      longest_ms = math.max(longest_ms, ttl_ms)
    end
  end
end
if longest_ms > 0 then
  for _, key in ipairs({register_key, keys.items, keys.order, keys.vectors, unpack(keys.sets)}) do
    outlive(key, redis.call('PTTL', key), longest_ms)
  end
  keep_expiry(keys)
end
return found
