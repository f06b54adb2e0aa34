-- Make a thread that has no run yet.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/functions/records/thread_rows: list_thread, touch_row
--
-- KEYS[1] agent:thread_row:<thread>  hash  what is listed of it
-- ARGV[1] thread
-- ARGV[2] tenant
-- ARGV[3] metadata, JSON
-- ARGV[4] the graph that is to write its first state; empty: its first run names one
-- ARGV[5] how long it is kept after its last use (ms); empty: as any other
-- ARGV[6] terms of the metadata, one in a line
-- ARGV[7] now (ms) in tests, else empty
-- Returns 1 | 0 there is one already
local row_key = KEYS[1]
local thread, tenant, metadata, graph, ttl_ms, now_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], clock(ARGV[7])

if redis.call('HEXISTS', row_key, 'created') == 1 then
  return 0
end
redis.call('HSET', row_key, 'created', whole(now_ms), 'updated', whole(now_ms), 'changed', whole(now_ms), 'metadata', metadata)
if graph ~= '' then
  redis.call('HSET', row_key, 'graph', graph)
end
if ttl_ms ~= '' then
  redis.call('HSET', row_key, 'ttl', ttl_ms)
end
touch_row(thread, tenant, ttl_ms, now_ms)
list_thread(thread, tenant, ARGV[6])
return 1
