-- Values of the fleet's policy, as all scripts of the budget read them.
--
-- An amount is a whole number from 1 to 2^53 - 1, or `-` for no limit. A limit is tokens, a space, nano-dollars; in that
-- of one tenant or user `=` stands for the amount that holds for all of them.
local EXACT = 9007199254740992

-- Return the number (nil for no limit), and whether the word is an amount.
local function amount_of(word)
  if word == "-" then
    return nil, true
  end
  local number = tonumber(string.match(word, "^%d+$"))
  if number and number >= 1 and number < EXACT then
    return number, true
  end
  return nil, false
end

-- Return tokens and nano-dollars of a limit as words; empty ones where it is none.
local function pair_of(limit)
  local tokens, cost = string.match(limit or "", "^(%S+) (%S+)$")
  return tokens or "", cost or ""
end

-- Return the two words that hold for a tenant or user, and whether each is its own.
local function in_force(own, all)
  local tokens, cost = pair_of(all)
  if not own then
    return tokens, cost, false, false
  end
  local own_tokens, own_cost = pair_of(own)
  local has_tokens, has_cost = own_tokens ~= "=", own_cost ~= "="
  return has_tokens and own_tokens or tokens, has_cost and own_cost or cost, has_tokens, has_cost
end

-- Return the offset of the day in s; nil where it cannot be read.
local function offset_of(value)
  local offset = tonumber(string.match(value or "", "^%-?%d+$"))
  return offset and offset >= -43200 and offset <= 50400 and offset or nil
end
