-- The slots of a script that calls several scripts as functions, each with its own KEYS and ARGV.
-- ARGV holds per function the number of its keys, the number of its arguments, and its arguments. KEYS holds the keys
-- of all functions, in the same order.
local next_key, next_argument = 1, 1
local NONE = {}

-- Returns KEYS and ARGV of the next function.
local function next_call()
  local keys, arguments = tonumber(ARGV[next_argument]), tonumber(ARGV[next_argument + 1])
  local first_key, first_argument = next_key, next_argument + 2
  next_key, next_argument = first_key + keys, first_argument + arguments
  if keys == 0 and arguments == 0 then
    return NONE, NONE
  end
  return {unpack(KEYS, first_key, next_key - 1)}, {unpack(ARGV, first_argument, next_argument - 1)}
end
