#!lua flags=allow-oom
-- Drop what one run wrote beside checkpoints of other runs.
--
-- Uses worker/state/saver/scripts/fence: is_outdated
--
-- KEYS[1] agent:thread_state:<thread>  hash  all that belongs to the thread
-- ARGV[1] fencing token, or empty
-- ARGV[2] mark of the run
-- ARGV[3..] names of the checkpoints
-- Returns 1 | 0 fenced off
local state_key = KEYS[1]
local token, run = ARGV[1], ARGV[2]

if is_outdated(state_key, token) then
  return 0
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

for i = 3, #ARGV do
  local fields = {'w' .. ARGV[i]}
  for k = 1, tonumber(redis.call('HGET', state_key, 'n' .. ARGV[i]) or '') or 0 do
    fields[#fields + 1] = 's' .. k .. ':' .. ARGV[i]
  end
  for _, field in ipairs(fields) do
    local rows = redis.call('HGET', state_key, field)
    local kept = rows and rows:find(run, 1, true) and without(rows)
    if kept == '' then
      redis.call('HDEL', state_key, field)
    elseif kept and #kept < #rows then
      redis.call('HSET', state_key, field, kept)
    end
  end
end
return 1
