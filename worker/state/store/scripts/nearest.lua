-- Find the nearest embeddings of namespaces in their vector sets.
--
-- Uses shared/connections/clock: clock
-- Uses worker/state/store/scripts/items: item_keys, sweep_items
-- Uses worker/state/store/scripts/elements: dims_of
--
-- ARGV[1] tenant
-- ARGV[2] embedding of the query, as 32-bit floats
-- ARGV[3] its length
-- ARGV[4] embeddings of each namespace at most; no more than 1,000
-- ARGV[5..] namespaces, at most a few hundred
-- Returns for each namespace, as many as there is time for: {items with embeddings in the hash; similarity of the
-- farthest embedding that was found, from 0 to 1, empty: none has been left out; then in turns the key of an item, the
-- similarity of one of its embeddings, and when it was put (us)}
local tenant, query, dims, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local EXACT = 1000 -- embeddings of a set that are all compared: it takes no longer than a walk through its graph, misses none
local WALK = 200 -- embeddings that a walk keeps in view
local STEPS, OVERHEAD = 10, 20 -- comparisons per embedding in view, and what a namespace costs, in comparisons
local WORK = 4000 -- comparisons per script, and one namespace more: two milliseconds
local now_ms, work = clock(''), 0

local function near_embeddings(key, held)
  if held <= EXACT then
    work = work + held
    return redis.call('VSIM', key, 'FP32', query, 'WITHSCORES', 'COUNT', count, 'TRUTH')
  end
  local view = math.max(WALK, count)
  work = work + STEPS * view
  return redis.call('VSIM', key, 'FP32', query, 'WITHSCORES', 'COUNT', count, 'EF', view)
end

-- Return the items that elements belong to, and of each when it was put, false if its time is over.
local function put_times(keys, found)
  local names = {}
  for i = 1, #found, 2 do
    names[#names + 1] = found[i]:match('^%d+ (.*)$')
  end
  if #names == 0 then
    return names, names
  end
  local times, over = redis.call('ZMSCORE', keys.order, unpack(names)), redis.call('ZMSCORE', keys.expiry, unpack(names))
  for i, until_ms in ipairs(over) do
    times[i] = not (until_ms and tonumber(until_ms) <= now_ms) and times[i]
  end
  return names, times
end

local reply = {}
for i = 5, #ARGV do
  if work > WORK then
    break
  end
  work = work + OVERHEAD
  local keys = item_keys(tenant, ARGV[i])
  sweep_items(keys, now_ms)
  local near = {redis.call('HLEN', keys.vectors), ''}
  for _, key in ipairs(keys.sets) do
    if dims_of(key) == dims then
      local held = redis.call('VCARD', key)
      local found = near_embeddings(key, held)
      near[2] = held > count and found[#found] or ''
      local names, times = put_times(keys, found)
      for n, name in ipairs(names) do
        if times[n] then
          near[#near + 1], near[#near + 2], near[#near + 3] = name, found[2 * n], times[n]
        end
      end
    end
  end
  reply[#reply + 1] = near
end
return reply
