-- Fencing tokens, and the TTLs of what belongs to a thread.

-- Whether a higher token than `token` was seen on the thread, so that nothing may be written; else `token` is the highest
-- from now on. Empty: a caller that runs no task, such as an operation on a thread at rest, is not compared.
local function is_outdated(state_key, token)
  if token == '' then
    return false
  end
  local given, last = tonumber(token), tonumber(redis.call('HGET', state_key, 't') or '') or 0
  if given > last then
    redis.call('HSET', state_key, 't', token)
  end
  return given < last
end

-- Whether a task that runs may write what it has reached: only if it was the last to begin on the thread, or nothing is
-- known of any. After a failover Redis may have forgotten that it began, and who claimed it with that: an earlier task of
-- the thread may run again.
local function has_begun(state_key, token)
  local last = tonumber(redis.call('HGET', state_key, 't') or '') or 0
  if token ~= '' and last == 0 then
    redis.call('HSET', state_key, 't', token)
    return true
  end
  return token == '' or last == tonumber(token)
end

-- Let both keys of a thread expire at the same instant.
local function keep(state_key, index_key, ttl_ms)
  redis.call('PEXPIRE', state_key, ttl_ms)
  redis.call('PEXPIRE', index_key, ttl_ms)
end

-- How long (ms) what is to be kept for `ttl_ms` at least is kept: so much longer that not every step writes it anew.
local function longer(ttl_ms)
  return math.floor(ttl_ms * 65 / 64)
end
