#!lua flags=no-writes
-- List names of checkpoints: those of a namespace, newest first, or those of all namespaces, in the order of the names.
--
-- Uses worker/state/saver/scripts/names: range_end
--
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order; the first key is not used
-- ARGV[1] prefix of the namespace; empty: all namespaces
-- ARGV[2] begin behind this name; empty: at the first
-- ARGV[3] the most names
-- Returns the names
local index_key = KEYS[2]
local prefix, from, most = ARGV[1], ARGV[2], ARGV[3]

if prefix == '' then
  return redis.call('ZRANGE', index_key, from == '' and '-' or '(' .. from, '+', 'BYLEX', 'LIMIT', 0, most)
end
local first = '(' .. (from == '' and range_end(prefix) or from)
return redis.call('ZRANGE', index_key, first, '[' .. prefix, 'BYLEX', 'REV', 'LIMIT', 0, most)
