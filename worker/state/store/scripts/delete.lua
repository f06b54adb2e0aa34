-- Delete an item, and its namespace from the register if it was the last one.
--
-- Uses shared/connections/clock: clock
-- Uses worker/state/store/scripts/items: item_keys, drop_item, sweep_items
-- Uses worker/state/store/scripts/newest_attempt: is_superseded
--
-- KEYS[1] agent:store_namespaces:<tenant>  zset    namespaces of the tenant, all with the score 0
-- KEYS[2] agent:store_epoch:<task>         string  highest epoch of the task that was seen; absent: no task deletes
-- ARGV[1] tenant
-- ARGV[2] namespace; each label ends with a NUL
-- ARGV[3] key of the item
-- ARGV[4] epoch of the task that deletes; empty: no task deletes
-- Returns 1 deleted, or there was none | 0 refused, a later attempt at the task has been seen
local register_key, epoch_key = KEYS[1], KEYS[2]
local tenant, namespace, name, epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if is_superseded(epoch_key, epoch) then
  return 0
end
local keys = item_keys(tenant, namespace)
drop_item(keys, name)
sweep_items(keys, clock(''))
if redis.call('EXISTS', keys.items) == 0 then
  redis.call('ZREM', register_key, namespace)
end
return 1
