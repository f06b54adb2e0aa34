#!lua flags=no-writes
-- List threads of a tenant, the last used first, which may match: those of which each group of terms has one. Looks at a
-- bounded number of them, and says where to go on.
--
-- Uses shared/connections/clock: whole
-- Uses shared/queue/functions/records/thread_rows: BY_TERM, THREADS
--
-- ARGV[1] tenant
-- ARGV[2] n, threads at most
-- ARGV[3] when the last thread of the page before was used (ms), empty for the first page
-- ARGV[4] that thread
-- ARGV from the 5th on: groups of terms, one in a line, at most 16
-- Returns {when the last one that was looked at was used (ms), empty at the end, that thread, threads that may match, ...}
local tenant, n, after_ms, after = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local threads_key = THREADS .. tenant
-- Threads of a term that are looked up one by one; of one with more, the tenant's threads are looked through.
local FEW, LOOKED_AT = 1000, 1000

local groups, fewest = {}, nil
for i = 5, #ARGV do
  local group = {size = 0}
  for term in ARGV[i]:gmatch('[^\n]+') do
    group[#group + 1] = BY_TERM .. tenant .. ':' .. term
    group.size = group.size + redis.pcall('SCARD', group[#group])
  end
  groups[#groups + 1] = group
  fewest = (fewest and fewest.size <= group.size) and fewest or group
end

-- Leave out the threads that have no term of some group.
local function matching(threads)
  for _, group in ipairs(groups) do
    local left, has = {}, {}
    for _, key in ipairs(#threads > 0 and group or {}) do
      for i, is_member in ipairs(redis.pcall('SMISMEMBER', key, unpack(threads))) do
        has[i] = has[i] or is_member == 1
      end
    end
    for i, thread in ipairs(threads) do
      left[#left + 1] = has[i] and thread or nil
    end
    threads = left
  end
  return threads
end

local function answer(last, last_ms, threads)
  return {last_ms, last, unpack(threads)}
end

if fewest and fewest.size <= FEW then
  local listed, seen, used = {}, {}, {}
  for _, key in ipairs(fewest) do
    for _, thread in ipairs(redis.pcall('SMEMBERS', key)) do
      if not seen[thread] then
        seen[thread] = true
        listed[#listed + 1] = thread
      end
    end
  end
  listed = matching(listed)
  local scores = #listed > 0 and redis.pcall('ZMSCORE', threads_key, unpack(listed)) or {}
  local threads, before_ms = {}, tonumber(after_ms)
  for i, thread in ipairs(listed) do
    local at = tonumber(scores[i] or nil)
    if at and (not before_ms or at < before_ms or (at == before_ms and thread < after)) then
      used[thread] = at
      threads[#threads + 1] = thread
    end
  end
  table.sort(threads, function(a, b)
    if used[a] ~= used[b] then
      return used[a] > used[b]
    end
    return a > b
  end)
  if #threads <= n then
    return answer('', '', threads)
  end
  return answer(threads[n], whole(used[threads[n]]), {unpack(threads, 1, n)})
end

local start = 0
if after_ms ~= '' then
  local is_there = tonumber(redis.pcall('ZSCORE', threads_key, after) or nil) == tonumber(after_ms)
  start = is_there and redis.pcall('ZREVRANK', threads_key, after) + 1
    or redis.pcall('ZCOUNT', threads_key, '(' .. after_ms, '+inf')
end
local most = #groups > 0 and LOOKED_AT or n
local page = redis.pcall('ZRANGE', threads_key, start, start + most - 1, 'REV', 'WITHSCORES')
local threads, used = {}, {}
for i = 1, #page, 2 do
  threads[#threads + 1] = page[i]
  used[page[i]] = page[i + 1]
end
local found = matching(threads)
if #found > n then
  return answer(found[n], whole(used[found[n]]), {unpack(found, 1, n)})
elseif #threads < most then
  return answer('', '', found)
end
return answer(threads[#threads], whole(used[threads[#threads]]), found)
