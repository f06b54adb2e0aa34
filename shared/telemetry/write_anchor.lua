#!lua flags=allow-oom
-- Write an anchor of the audit log, unless another worker has written one since the newest was read.
--
-- Uses shared/connections/clock: clock, natural
--
-- KEYS[1] agent:anchors  hash  newest, oldest: numbers of those anchors; number -> anchor
-- ARGV[1] the newest anchor as it was read, empty for none
-- ARGV[2] number of the anchor: that of the newest, which is replaced, or the next
-- ARGV[3] the anchor (JSON)
-- ARGV[4] anchors whose entries are all older than this are removed (ms), two at most
-- ARGV[5] now (ms) in tests, else empty
-- Returns 1: written, 0: another worker was first
local key, read, number, anchor, keep_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local newest = redis.call('HGET', key, 'newest')
if (newest and redis.call('HGET', key, newest) or '') ~= read then
  return 0
end
redis.call('HSET', key, number, anchor, 'newest', number)
local oldest = natural(redis.call('HGET', key, 'oldest'), tonumber(number))
for _ = 1, 2 do
  local last_ms = oldest < tonumber(number) and (redis.call('HGET', key, oldest) or ''):match('"last":"(%d+)')
  if last_ms and tonumber(last_ms) < clock(ARGV[5]) - keep_ms then
    redis.call('HDEL', key, oldest)
    oldest = oldest + 1
  end
end
redis.call('HSET', key, 'oldest', oldest)
redis.call('PEXPIRE', key, keep_ms + 86400000)
return 1
