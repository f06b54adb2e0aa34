#!lua flags=no-writes
-- Read how long the fields of a thread are, a part of them at a time.
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread; the second key is not used
-- ARGV[1] where to go on: 0, then what was returned
-- ARGV[2] about how many fields
-- Returns {where to go on, 0 at the end, then in turns a field and the bytes of its content}
local state_key, cursor, fields = KEYS[1], ARGV[1], ARGV[2]

local next_cursor, found = unpack(redis.call('HSCAN', state_key, cursor, 'COUNT', fields))
local sizes = {next_cursor}
for i = 1, #found, 2 do
  sizes[#sizes + 1] = found[i]
  sizes[#sizes + 1] = #found[i + 1]
end
return sizes
