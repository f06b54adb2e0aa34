-- Read the embeddings of items of one namespace.
--
-- Uses worker/state/store/scripts/items: item_keys, read_parts
-- Uses worker/state/store/scripts/elements: dims_of, read_elements
--
-- ARGV[1] tenant
-- ARGV[2] namespace; each label ends with a NUL
-- ARGV[3..] keys of the items, at most a few hundred
-- Returns the embeddings of each, or false where there are none, of as many keys as there is room for
local tenant, namespace = ARGV[1], ARGV[2]

local keys, sets = item_keys(tenant, namespace), {}
for _, key in ipairs(keys.sets) do
  sets[key] = dims_of(key)
end
return read_parts({unpack(ARGV, 3)}, function(name)
  return redis.call('HGET', keys.vectors, name) or read_elements(sets, name)
end)
