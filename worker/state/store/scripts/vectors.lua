-- Read the embeddings of items of one namespace.
--
-- Uses worker/state/store/scripts/items: item_keys, read_fields
--
-- ARGV[1] tenant
-- ARGV[2] namespace; each label ends with a NUL
-- ARGV[3..] keys of the items, at most a few hundred
-- Returns the embeddings of each, or false where there are none, of as many keys as there is room for
local tenant, namespace = ARGV[1], ARGV[2]

return read_fields(item_keys(tenant, namespace).vectors, {unpack(ARGV, 3)})
