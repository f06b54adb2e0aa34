-- Count, of namespaces in the order of their labels, the items and where their embeddings are.
--
-- Uses worker/state/store/scripts/items: item_keys
-- Uses worker/state/store/scripts/elements: dims_of
--
-- KEYS[1] agent:store_namespaces:<tenant>  zset  namespaces of the tenant, all with the score 0
-- ARGV[1] tenant
-- ARGV[2] first namespace, as ZRANGE BYLEX wants it
-- ARGV[3] last namespace, likewise
-- ARGV[4] namespaces at most
-- ARGV[5] length of the embeddings that are searched
-- Returns {1 there is more | 0 that was all, the last namespace that was looked at, then for each with items: itself, items,
-- items with embeddings in the hash, embeddings in a vector set, a length of others in the other set, 0 if there are none}
local register_key = KEYS[1]
local tenant, first, last = ARGV[1], ARGV[2], ARGV[3]
local namespaces, dims = tonumber(ARGV[4]), tonumber(ARGV[5])

local found = redis.call('ZRANGE', register_key, first, last, 'BYLEX', 'LIMIT', 0, namespaces)
local reply = {#found < namespaces and 0 or 1, found[#found] or ''}
for _, namespace in ipairs(found) do
  local keys = item_keys(tenant, namespace)
  local held, near, other = redis.call('HLEN', keys.items), 0, 0
  for _, key in ipairs(keys.sets) do
    local found_dims = dims_of(key)
    if found_dims == dims then
      near = redis.call('VCARD', key)
    elseif found_dims then
      other = found_dims
    end
  end
  if held > 0 then
    reply[#reply + 1] = {namespace, held, redis.call('HLEN', keys.vectors), near, other}
  end
end
return reply
