#!lua flags=allow-oom
-- Ask the workers that serve a graph, or any worker, if there is one, and if not too many such requests wait.
--
-- Uses shared/connections/clock: clock, whole
--
-- KEYS[1] agent:graphs             zset  graph -> until when a live worker serves it (ms)
-- KEYS[2] agent:requests:<graph>   list  requests that no worker has taken yet
-- ARGV[1] graph; empty: any worker answers
-- ARGV[2] the request; what is kept begins with the time at which it was asked (ms)
-- ARGV[3] so many may wait
-- ARGV[4] how long they are kept (ms)
-- ARGV[5] now (ms) in tests, else empty
-- Returns {1} it waits | {0, graphs that live workers serve, at most 20} | {-1} too many wait
local graphs_key, requests_key = KEYS[1], KEYS[2]
local graph, request, most, kept_ms, now_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], clock(ARGV[5])

local live = redis.call('ZRANGEBYSCORE', graphs_key, '(' .. whole(now_ms), '+inf', 'LIMIT', 0, 20)
local is_served = #live > 0 and graph == '' or tonumber(redis.call('ZSCORE', graphs_key, graph) or 0) > now_ms
if not is_served then
  return {0, table.concat(live, ', ')}
end
if redis.call('LLEN', requests_key) >= most then
  return {-1}
end
redis.call('RPUSH', requests_key, whole(now_ms) .. ' ' .. request)
redis.call('PEXPIRE', requests_key, kept_ms)
return {1}
