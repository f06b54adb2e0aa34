-- Write an item as a whole: its value, its embeddings, when it expires, and that its namespace has it.
--
-- Uses shared/connections/clock: clock, clock_us
-- Uses worker/state/store/scripts/items: item_keys, pack_item, read_header, sweep_items, is_item_over, outlive, keep_expiry
-- Uses worker/state/store/scripts/elements: drop_elements, split_embeddings, set_for, add_elements
-- Uses worker/state/store/scripts/newest_attempt: is_superseded
--
-- KEYS[1] agent:store_namespaces:<tenant>  zset    namespaces of the tenant, all with the score 0
-- KEYS[2] agent:store_epoch:<task>         string  highest epoch of the task that was seen; absent: no task puts
-- ARGV[1] tenant
-- ARGV[2] namespace; each label ends with a NUL
-- ARGV[3] key of the item
-- ARGV[4] time to live (ms); 0: until it is deleted
-- ARGV[5] value
-- ARGV[6] embeddings; empty: none
-- ARGV[7] 1: they go into a vector set, if one takes them; empty: into the hash
-- ARGV[8] epoch of the task that puts; empty: no task puts
-- Returns 1 written | 0 refused, a later attempt at the task has been seen
local register_key, epoch_key = KEYS[1], KEYS[2]
local tenant, namespace, name = ARGV[1], ARGV[2], ARGV[3]
-- Namespaces that are looked at with each one that is added: Redis deletes the keys of one whose items have all expired, and
-- cannot take it off the register.
local LOOKED_AT = 2
local ttl_ms, value, vectors, epoch = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[8]
local is_indexed = ARGV[7] == '1'

if is_superseded(epoch_key, epoch) then
  return 0
end
local now_ms, keys = clock(''), item_keys(tenant, namespace)
sweep_items(keys, now_ms)

-- Later than all others of the namespace, also when the clock went back: the order of puts is that of their times.
local newest = redis.call('ZREVRANGE', keys.order, 0, 0, 'WITHSCORES')[2]
local updated_us = math.max(clock_us(), (tonumber(newest) or 0) + 1)
local before = redis.call('HGET', keys.items, name)
local created_us = before and not is_item_over(keys, name, now_ms) and read_header(before) or updated_us

local written, left_ms = {keys.items, keys.order, register_key}, {}
for i, key in ipairs(written) do
  left_ms[i] = redis.call('PTTL', key)
end

redis.call('HSET', keys.items, name, pack_item(created_us, updated_us, ttl_ms, value))
redis.call('ZADD', keys.order, updated_us, name)
if redis.call('ZADD', register_key, 0, namespace) == 1 then
  for _, other in ipairs(redis.call('ZRANDMEMBER', register_key, LOOKED_AT)) do
    if redis.call('EXISTS', item_keys(tenant, other).items) == 0 then
      redis.call('ZREM', register_key, other)
    end
  end
end
if ttl_ms > 0 then
  redis.call('ZADD', keys.expiry, now_ms + ttl_ms, name)
else
  redis.call('ZREM', keys.expiry, name)
end
for i, key in ipairs(written) do
  outlive(key, left_ms[i], ttl_ms)
end
keep_expiry(keys)

-- What the item was found by goes first: it may empty a set, which then takes embeddings of any length.
drop_elements(keys, name)
redis.call('HDEL', keys.vectors, name)
if vectors ~= '' then
  local embeddings, dims = split_embeddings(vectors)
  local set_key = is_indexed and embeddings and set_for(keys, embeddings, dims)
  local vectors_key = set_key or keys.vectors
  local vectors_left_ms = redis.call('PTTL', vectors_key)
  if set_key then
    add_elements(set_key, name, embeddings)
  else
    redis.call('HSET', keys.vectors, name, vectors)
  end
  outlive(vectors_key, vectors_left_ms, ttl_ms)
end
return 1
