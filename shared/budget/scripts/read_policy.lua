#!lua flags=no-writes
-- Read the fleet's limits, with or without those of single tenants and users.
--
-- KEYS[1]  agent:budget:policy  hash  limits of the fleet
-- ARGV[1]  JSON array of the fields to read; empty: all of them
--
-- Returns {field, value, ...} of those that there are; empty where no call has been made yet.
local policy_key, names = KEYS[1], ARGV[1]
if names == "" then
  return redis.call("HGETALL", policy_key)
end
local fields = cjson.decode(names)
local found = {}
for i, value in ipairs(redis.call("HMGET", policy_key, unpack(fields))) do
  if value then
    found[#found + 1] = fields[i]
    found[#found + 1] = value
  end
end
return found
