-- List a copy of a thread: with its metadata, its graph, its TTL and how its last run ended, and without its runs.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/functions/records/thread_rows: list_again, touch_row
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
local values = redis.call('HMGET', row_key, unpack(COPIED))
for i, value in ipairs(values) do
  if value then
    redis.call('HSET', copy_key, COPIED[i], value)
  end
end
local graph, ttl, terms = values[2], values[4], values[5]
touch_row(copy, tenant, ttl, now_ms)
list_again(copy, tenant, graph, terms)
return 1
