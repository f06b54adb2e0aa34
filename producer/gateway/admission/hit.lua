#!lua flags=allow-oom
-- Count a submission against a rate, if the rate allows it: a sliding window counter, which takes the last window's
-- submissions as spread evenly over it.
--
-- Uses shared/connections/clock: clock, natural, whole
--
-- KEYS[1] agent:rate:<tenant>, agent:rate:<tenant>--<user>  hash  window: number of the window that was counted last;
--                                            used: submissions in it; before: those in the window before it
-- ARGV[1] submissions allowed in a window
-- ARGV[2] length of a window (ms)
-- ARGV[3] now (ms) in tests, else empty
-- Returns wait (ms) until a submission is allowed again, 0: this one was counted; how many are left; end of the window
-- (ms since the epoch)
local key, limit, window_ms, now_ms = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), clock(ARGV[3])

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
  redis.call('HSET', key, 'window', whole(window), 'used', used + 1, 'before', before)
  redis.call('PEXPIRE', key, 2 * window_ms)
  return {0, math.floor(room - 1), ends_ms}
end
local wait_ms = ends_ms - now_ms
if used < limit then -- a submission of the last window leaves the sliding one before this window ends
  wait_ms = (1 - room) * window_ms / before
else
  wait_ms = wait_ms + math.max(0, 1 - (limit - 1) / used) * window_ms
end
return {math.max(1, math.ceil(wait_ms)), 0, ends_ms}
