-- List a copy of a thread: with its metadata, its graph, its TTL and how its last run ended, and without its runs.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/functions/thread_rows: ROW, list_again, touch_row
--
-- KEYS[1] agent:thread_row:<thread>  hash  what is listed of the thread
-- KEYS[2] agent:thread_row:<thread>  hash  what is listed of the copy
-- ARGV[1] the copy
-- ARGV[2] tenant
-- ARGV[3] now (ms) in tests, else empty
-- Returns 1 | 0 the copy is listed already
local row_key, copy_key = KEYS[1], KEYS[2]
local copy, tenant, now_ms = ARGV[1], ARGV[2], clock(ARGV[3])
local COPIED = {'metadata', 'graph', 'ended', 'ttl', 'terms'}

if redis.call('HEXISTS', copy_key, 'created') == 1 then
  return 0
end
local now = whole(now_ms)
redis.call('HSET', copy_key, 'created', now, 'updated', now, 'changed', now)
for i, value in ipairs(redis.call('HMGET', row_key, unpack(COPIED))) do
  if value then
    redis.call('HSET', copy_key, COPIED[i], value)
  end
end
touch_row(copy, tenant, now_ms)
list_again(copy, tenant, unpack(redis.pcall('HMGET', ROW .. copy, 'graph', 'terms')))
return 1
