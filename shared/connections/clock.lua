-- Instants in milliseconds since the epoch.

-- The server's time. `given_ms` replaces it in tests; empty otherwise.
local function clock(given_ms)
  if given_ms ~= '' then
    return tonumber(given_ms)
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The digits of a whole number; Lua itself writes large ones with an exponent.
local function whole(number)
  return string.format('%.0f', number)
end
