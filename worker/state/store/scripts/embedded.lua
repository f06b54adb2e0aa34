-- List the items of one namespace whose embeddings are in the hash. It may be changed meanwhile: an item that has its
-- embeddings there from the first script to the last is listed, once or more.
--
-- Uses shared/connections/clock: clock
-- Uses worker/state/store/scripts/items: item_keys, is_item_over
--
-- ARGV[1] tenant
-- ARGV[2] namespace; each label ends with a NUL
-- ARGV[3] where to go on; 0: at the beginning
-- Returns {where to go on, 0: that was all, in turns the key of an item and when it was put (us)}
local tenant, namespace, cursor = ARGV[1], ARGV[2], ARGV[3]
local COUNT = 500
local keys, now_ms = item_keys(tenant, namespace), clock('')

local found = redis.call('HSCAN', keys.vectors, cursor, 'COUNT', COUNT, 'NOVALUES')
local reply = {found[1]}
for _, name in ipairs(found[2]) do
  local put_us = not is_item_over(keys, name, now_ms) and redis.call('ZSCORE', keys.order, name)
  if put_us then
    reply[#reply + 1], reply[#reply + 2] = name, put_us
  end
end
return reply
