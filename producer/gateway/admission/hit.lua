#!lua flags=allow-oom
-- Count a submission against rates, such as its tenant's and its user's, if all of them allow it: sliding window counters,
-- which take the last window's submissions as spread evenly over it. Also says how many tasks are open.
--
-- Uses shared/connections/clock: clock, natural, whole
--
-- KEYS[1] agent:open  zset  id -> deadline (ms); every task that is not terminal
-- KEYS from the 2nd on: agent:rate:<tenant>, agent:rate:<tenant>--<user>  hashes  window: number of the window that was
--   counted last; used: submissions in it; before: those in the window before it
-- ARGV[1] now (ms) in tests, else empty
-- ARGV from the 2nd on, for each rate: submissions allowed in a window; length of a window (ms)
-- Returns {open tasks, for each rate {wait (ms) until a submission is allowed again, 0: it is; how many are left; end of the
-- window (ms since the epoch)}, ...}; it was counted if no rate has to wait
local open_key = KEYS[1]
local now_ms = clock(ARGV[1])

-- What a rate says, and the fields of its key with the submission counted.
local function look(key, limit, window_ms)
  local window = math.floor(now_ms / window_ms)
  local seen, used, before = unpack(redis.call('HMGET', key, 'window', 'used', 'before'))
  seen, used, before = natural(seen, 0), natural(used, 0), natural(before, 0)
  if seen ~= window then
    used, before = 0, seen == window - 1 and used or 0
  end
  local passed = (now_ms - window * window_ms) / window_ms -- share of the window
  local room = limit - used - before * (1 - passed)
  local ends_ms = (window + 1) * window_ms
  if room >= 1 then
    return {0, math.floor(room - 1), ends_ms}, {'window', whole(window), 'used', used + 1, 'before', before}
  end
  local wait_ms = ends_ms - now_ms
  if used < limit then -- a submission of the last window leaves the sliding one before this window ends
    wait_ms = (1 - room) * window_ms / before
  else
    wait_ms = wait_ms + math.max(0, 1 - (limit - 1) / used) * window_ms
  end
  return {math.max(1, math.ceil(wait_ms)), 0, ends_ms}
end

local open_tasks = redis.pcall('ZCARD', open_key)
local answer, counted, may = {type(open_tasks) == 'number' and open_tasks or 0}, {}, true
for i = 2, #KEYS do
  answer[i], counted[i] = look(KEYS[i], tonumber(ARGV[2 * i - 2]), tonumber(ARGV[2 * i - 1]))
  may = may and counted[i]
end
for i = 2, may and #KEYS or 0 do
  redis.call('HSET', KEYS[i], unpack(counted[i]))
  redis.call('PEXPIRE', KEYS[i], 2 * ARGV[2 * i - 1])
end
return answer
