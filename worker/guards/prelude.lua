-- Prelude of the scripts that run several verbs: hands out the slots of one verb after the other.
-- ARGV holds for each verb: how many keys it has, how many arguments, its arguments. KEYS holds their keys, in order.
-- Returns nothing: it defines `next_call` for the script that it is put before.
local next_key, next_argument = 1, 1

local function next_call()
  local keys, arguments = tonumber(ARGV[next_argument]), tonumber(ARGV[next_argument + 1])
  local first_key, first_argument = next_key, next_argument + 2
  next_key, next_argument = first_key + keys, first_argument + arguments
  return {unpack(KEYS, first_key, next_key - 1)}, {unpack(ARGV, first_argument, next_argument - 1)}
end
