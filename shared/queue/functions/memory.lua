-- How much memory Redis used in each of the last two days' hours, from which the doctor estimates when it is full.
--
-- Uses shared/connections/clock: whole
--
-- agent:memory   hash  hour since the epoch -> bytes that Redis used when it began; two days
local MEMORY = 'agent:memory'
local HOUR_MS, HOURS = 3600000, 48

-- Note what is used, once an hour.
local function note_memory(now_ms)
  local hour = math.floor(now_ms / HOUR_MS)
  if redis.pcall('HEXISTS', MEMORY, whole(hour)) == 1 then
    return
  end
  redis.pcall('HSET', MEMORY, whole(hour), redis.call('INFO', 'memory'):match('used_memory:(%d+)'))
  for old = hour - 2 * HOURS, hour - HOURS do -- also those before a time without a sweep
    redis.pcall('HDEL', MEMORY, whole(old))
  end
  redis.pcall('PEXPIRE', MEMORY, HOURS * HOUR_MS)
end
