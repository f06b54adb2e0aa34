-- Instants in milliseconds since the epoch, and how numbers are read and written.

local server_ms

-- The server's time, which stands still during a script. `given_ms` replaces it in tests, also for later calls of the
-- script; empty otherwise.
local function clock(given_ms)
  if given_ms ~= '' then
    server_ms = tonumber(given_ms)
  end
  if not server_ms then
    local time = redis.call('TIME')
    server_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return server_ms
end

-- The server's time in microseconds, which no two scripts that write share.
local function clock_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- A whole number that was read from Redis, or `otherwise` when it is none.
local function natural(text, otherwise)
  if text and #text <= 15 and text:find('^%d+$') then
    return tonumber(text)
  end
  return otherwise
end

-- The digits of a whole number; Lua itself writes large ones with an exponent. A %d is a C long, which has 64 bits: workers
-- refuse a Redis of 32. A %.0f takes four times as long.
local function whole(number)
  return string.format('%d', number)
end
