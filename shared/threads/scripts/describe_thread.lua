-- Replace the metadata of a thread, unless they have changed since they were read.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/functions/thread_rows: touch_row
--
-- KEYS[1] agent:thread_row:<thread>  hash  what is listed of it
-- ARGV[1] thread
-- ARGV[2] tenant
-- ARGV[3] metadata as they were read, JSON, empty for none
-- ARGV[4] metadata, JSON
-- ARGV[5] now (ms) in tests, else empty
-- Returns 1 | 0 they are others by now | -1 there is no such thread
local row_key = KEYS[1]
local thread, tenant, before, after, now_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], clock(ARGV[5])

local created, metadata = unpack(redis.call('HMGET', row_key, 'created', 'metadata'))
if not created then
  return -1
end
if (metadata or '') ~= before then
  return 0
end
redis.call('HSET', row_key, 'metadata', after, 'updated', whole(now_ms))
touch_row(thread, tenant, now_ms)
return 1
