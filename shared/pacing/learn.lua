#!lua flags=allow-oom
-- Keep the rates that a provider has reported for a model, for workers that have not called it yet.
--
-- KEYS[1] agent:pacing        hash   name -> "calls tokens" per minute, 0 for any number
-- ARGV[1] name
-- ARGV[2] calls per minute, 0 for any number
-- ARGV[3] tokens per minute, 0 for any number
-- ARGV[4] most names
-- ARGV[5] kept for so long after the last report (ms)
-- Returns 1 kept | 0 there are too many names
local key, name, rates = KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3]
if redis.call('HEXISTS', key, name) == 0 and redis.call('HLEN', key) >= tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', key, name, rates)
redis.call('PEXPIRE', key, ARGV[5])
return 1
