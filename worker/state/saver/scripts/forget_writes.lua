#!lua flags=allow-oom
-- Drop what one run wrote beside checkpoints of other runs, as far as one call goes; the caller goes on from there.
--
-- Uses worker/state/saver/scripts/fence: is_outdated
-- Uses worker/state/saver/scripts/names: further_fields
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- ARGV[1] fencing token, or empty
-- ARGV[2] mark of the run
-- ARGV[3] the field of the first checkpoint's writes to begin with: 0 is the first
-- ARGV[4..] names of the checkpoints
-- Returns {1, how many of the checkpoints are done, the field of the next one to go on with} | {0} fenced off
local state_key = KEYS[1]
local token, run, first = ARGV[1], ARGV[2], tonumber(ARGV[3])
local MOST_FIELDS, MOST_BYTES = 100, 1000000

if is_outdated(state_key, token) then
  return {0}
end

-- The writes of a field, without those of the run: each is its length in four bytes, the mark of its run and the rest.
local function without(rows)
  local kept, at = {}, 1
  while at + 3 + #run <= #rows do
    local a, b, c, d = rows:byte(at, at + 3)
    local last = at + 3 + #run + ((a * 256 + b) * 256 + c) * 256 + d
    if rows:sub(at + 4, at + 3 + #run) ~= run then
      kept[#kept + 1] = rows:sub(at, last)
    end
    at = last + 1
  end
  return table.concat(kept)
end

local function forget(field)
  local rows = redis.call('HGET', state_key, field) or ''
  local kept = rows:find(run, 1, true) and without(rows)
  if kept == '' then
    redis.call('HDEL', state_key, field)
  elseif kept and #kept < #rows then
    redis.call('HSET', state_key, field, kept)
  end
  return #rows
end

local fields, bytes = 0, 0
for i = 4, #ARGV do
  local name = ARGV[i]
  for k = first, further_fields(state_key, name) do
    if fields >= MOST_FIELDS or bytes >= MOST_BYTES then
      return {1, i - 4, k}
    end
    bytes = bytes + forget(k == 0 and 'w' .. name or 's' .. k .. ':' .. name)
    fields = fields + 1
  end
  first = 0
end
return {1, #ARGV - 3, 0}
