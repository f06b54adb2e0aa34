#!lua flags=no-writes
-- Read the fleet's limits, with those of single tenants and users.
--
-- KEYS[1]  agent:budget:policy  hash  limits of the fleet
--
-- Returns {field, value, ...}; empty where no call has been made yet.
return redis.call("HGETALL", KEYS[1])
