-- The fence of a task's puts: an attempt writes nothing once a later one was seen.
local SEEN_MS = 24 * 3600 * 1000

-- Record the attempt of this epoch, and say whether a later one was seen. The first attempt is not recorded, as nothing
-- comes before it: nearly all tasks have no other.
local function is_superseded(epoch_key, epoch)
  local own = tonumber(epoch)
  if not own then -- no task writes
    return false
  end
  if own < (tonumber(redis.call('GET', epoch_key) or '') or 1) then
    return true
  end
  if own > 1 then
    redis.call('SET', epoch_key, epoch, 'PX', SEEN_MS)
  end
  return false
end
