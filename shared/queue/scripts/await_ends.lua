#!lua flags=allow-oom
-- Wait for the ends of tasks: each is pushed to the reader's list, agent:ended:<reader>, when it comes (events.lua).
--
-- ARGV[1] reader
-- ARGV[2] how long (ms): who waits longer asks again
-- ARGV from the 3rd on: ids, at most 200
-- Returns an id and its result for each that has one already; the result is empty where several are asked for
local reader, wait_ms = ARGV[1], ARGV[2]

local ended = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', 'agent:result:' .. id) == 1 then
    ended[#ended + 1] = id
    ended[#ended + 1] = #ARGV == 3 and redis.call('GET', 'agent:result:' .. id) or ''
  else
    local awaited_key = 'agent:awaited:' .. id
    redis.call('SADD', awaited_key, reader)
    redis.call('PEXPIRE', awaited_key, wait_ms)
  end
end
return ended
