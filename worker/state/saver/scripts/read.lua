#!lua flags=no-writes
-- Read checkpoints with their writes and values: those that are named and, of each, some ancestors.
--
-- Uses worker/state/saver/scripts/names: further_fields, packed_header, prefix_of, range_end
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- KEYS[2] agent:thread_index:<thread>  zset  names of its checkpoints, in order
-- ARGV[1] stop once so many bytes are read; the first checkpoint is read whatever its size
-- ARGV[2] how many ancestors to read with each
-- ARGV[3] bytes of which nothing further is read, for a caller that wants but the name then; empty: there is no such limit
-- ARGV[4..] names; one without an id is the namespace's newest
-- Returns {{name, record, {writes}, {values}}, ...}; a checkpoint that is not there is left out, a missing value is empty.
--   To another script also how many bytes these are
local state_key, index_key = KEYS[1], KEYS[2]
local most_bytes, ancestors, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found, bytes = {}, 0

local function field(name)
  if limit then -- a large value takes a thousand times as long to read as its length
    bytes = bytes + redis.call('HSTRLEN', state_key, name)
    return bytes <= limit and redis.call('HGET', state_key, name) or ''
  end
  local content = redis.call('HGET', state_key, name) or ''
  bytes = bytes + #content
  return content
end

-- Add a checkpoint to what was found. Returns the id of its parent, or nothing.
local function add(name, prefix)
  local record = field('c' .. name)
  if record == '' and not (limit and bytes > limit) then
    return nil
  end
  local is_readable, header = pcall(cmsgpack.unpack, packed_header(record))
  if not is_readable or type(header) ~= 'table' then
    header = {}
  end
  local writes = {field('w' .. name)}
  for i = 1, further_fields(state_key, name) do
    writes[#writes + 1] = field('s' .. i .. ':' .. name)
  end
  local values = {}
  for i, value in ipairs(type(header[2]) == 'table' and header[2] or {}) do
    values[i] = field('v' .. prefix .. value)
  end
  found[#found + 1] = {name, record, writes, values}
  return header[1] ~= '' and header[1] or nil
end

for i = 4, #ARGV do
  local name = ARGV[i]
  local prefix = prefix_of(name)
  if name == prefix then
    name = redis.call('ZRANGE', index_key, '(' .. range_end(prefix), '[' .. prefix, 'BYLEX', 'REV', 'LIMIT', 0, 1)[1]
  end
  local left = ancestors
  while name and (bytes < most_bytes or #found == 0) do
    local parent = add(name, prefix)
    name = left > 0 and parent and prefix .. parent
    left = left - 1
  end
end
return found, bytes
