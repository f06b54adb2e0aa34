-- Replace the metadata of a thread, unless they have changed since they were read, and say how long it is kept.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/functions/records/thread_rows: list_thread, touch_row
--
-- KEYS[1] agent:thread_row:<thread>  hash  what is listed of it
-- ARGV[1] thread
-- ARGV[2] tenant
-- ARGV[3] metadata as they were read, JSON, empty for none
-- ARGV[4] metadata, JSON
-- ARGV[5] how long it is kept after its last use (ms); empty: as before
-- ARGV[6] their terms, one in a line
-- ARGV[7] now (ms) in tests, else empty
-- Returns 1 | 0 they are others by now | -1 there is no such thread
local row_key = KEYS[1]
local thread, tenant, before, after, ttl_ms, now_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], clock(ARGV[7])

local created, metadata, ttl = unpack(redis.call('HMGET', row_key, 'created', 'metadata', 'ttl'))
if not created then
  return -1
end
if (metadata or '') ~= before then
  return 0
end
redis.call('HSET', row_key, 'metadata', after, 'updated', whole(now_ms))
if ttl_ms ~= '' then
  redis.call('HSET', row_key, 'ttl', ttl_ms)
end
touch_row(thread, tenant, ttl_ms ~= '' and ttl_ms or ttl, now_ms)
list_thread(thread, tenant, ARGV[6])
return 1
