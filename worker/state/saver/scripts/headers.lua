#!lua flags=no-writes
-- Read the headers of a thread's checkpoints, by which it is decided what may be dropped.
--
-- Uses worker/state/saver/scripts/names: packed_header
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- ARGV[1] begin behind this name; empty: at the first
-- ARGV[2] the most headers
-- Returns {number of all checkpoints, name, header, name, header, ...}
local state_key, index_key = KEYS[1], KEYS[2]
local from, most = ARGV[1], ARGV[2]

local found = {redis.call('ZCARD', index_key)}
local first = from == '' and '-' or '(' .. from
for _, name in ipairs(redis.call('ZRANGE', index_key, first, '+', 'BYLEX', 'LIMIT', 0, most)) do
  found[#found + 1] = name
  found[#found + 1] = packed_header(redis.call('HGET', state_key, 'c' .. name) or '')
end
return found
