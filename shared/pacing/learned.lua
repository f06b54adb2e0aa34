#!lua flags=no-writes
-- Read the rates that providers have reported.
--
-- KEYS[1] agent:pacing        hash   name -> "calls tokens" per minute, 0 for any number
-- Returns {name, rates, ...}
return redis.call('HGETALL', KEYS[1])
