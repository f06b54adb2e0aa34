-- The items of one namespace: its keys, which share their labels, and the register of the namespaces of a tenant.
--
-- Uses worker/state/store/scripts/elements: drop_elements
--
-- An item is a string: a byte that names its format, three integers of eight bytes (created, updated, both in us since
-- the epoch; time to live in ms, 0 if it has none), and what Python wrote of its value.
local HEADER, HEADER_BYTES, FORMAT = '>BI8I8I8', 25, 1
local LONGEST_MS = 100 * 365 * 24 * 3600 * 1000 -- time to live; `store.py` refuses a longer one
local SWEPT = 100 -- items per script whose time is over
local SWEPT_ELEMENTS = 10 -- embeddings per script that are taken out of vector sets, and those of one item more: two milliseconds
local swept, swept_elements = 0, 0 -- so far, in all namespaces of the script
local ROOM = 1000000 -- bytes that a script returns, and one item more

-- Name the keys of a namespace, whose labels each end with a NUL.
local function item_keys(tenant, namespace)
  local name = tenant .. ':' .. (namespace:sub(1, -2):gsub('%z', '.'))
  return {
    items = 'agent:store:' .. name,
    order = 'agent:store_order:' .. name,
    expiry = 'agent:store_expiry:' .. name,
    vectors = 'agent:store_vectors:' .. name,
    sets = {'agent:store_index:' .. name, 'agent:store_index_2:' .. name},
  }
end

local function pack_item(created_us, updated_us, ttl_ms, value)
  return struct.pack(HEADER, FORMAT, created_us, updated_us, ttl_ms) .. value
end

-- Return when an item was created (us), and its time to live (ms); nil if it is none.
local function read_header(item)
  if #item < HEADER_BYTES then
    return nil
  end
  local format, created_us, _, ttl_ms = struct.unpack(HEADER, item)
  if format ~= FORMAT or ttl_ms > LONGEST_MS then
    return nil
  end
  return created_us, ttl_ms
end

-- Read something of items in order, of as many as there is room for; `part_of` returns false where there is nothing.
local function read_parts(names, part_of)
  local found, bytes = {}, 0
  for i, name in ipairs(names) do
    if bytes > ROOM then
      break
    end
    found[i] = part_of(name)
    bytes = bytes + (found[i] and #found[i] or 0)
  end
  return found
end

-- Delete an item; return how many embeddings it had in vector sets.
local function drop_item(keys, name)
  redis.call('HDEL', keys.items, name)
  redis.call('HDEL', keys.vectors, name)
  redis.call('ZREM', keys.order, name)
  redis.call('ZREM', keys.expiry, name)
  return drop_elements(keys, name)
end

-- Delete some of the items whose time is over.
local function sweep_items(keys, now_ms)
  if swept >= SWEPT or swept_elements >= SWEPT_ELEMENTS then
    return
  end
  for _, name in ipairs(redis.call('ZRANGE', keys.expiry, '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, SWEPT - swept)) do
    swept, swept_elements = swept + 1, swept_elements + drop_item(keys, name)
    if swept_elements >= SWEPT_ELEMENTS then
      return
    end
  end
end

local function is_item_over(keys, name, now_ms)
  local until_ms = redis.call('ZSCORE', keys.expiry, name)
  return until_ms and tonumber(until_ms) <= now_ms
end

-- Let a key outlive an item of it; `left_ms` is what PTTL said before the item was written, `ttl_ms` 0: for ever.
local function outlive(key, left_ms, ttl_ms)
  if ttl_ms == 0 then
    if left_ms >= 0 then
      redis.call('PERSIST', key)
    end
  elseif left_ms ~= -1 and left_ms < ttl_ms then
    redis.call('PEXPIRE', key, ttl_ms)
  end
end

-- Let it be known until when items are kept for as long as there are items: one that is forgotten to be over is found again.
local function keep_expiry(keys)
  local left_ms = redis.call('PTTL', keys.items)
  if left_ms < 0 then
    redis.call('PERSIST', keys.expiry)
  else
    redis.call('PEXPIRE', keys.expiry, left_ms)
  end
end
