-- Ids of ended tasks, remembered for the idempotency window: all that is left of a task once its result is forgotten. Many
-- share a hash, so that one takes a fifth of a key of its own, and each hash is forgotten as a whole.
--
-- Uses shared/connections/clock: natural, whole
-- Uses shared/queue/functions/turns: tenant_of
--
-- agent:ids:<tenant>                    zset  instant (ms) -> the same, of the hashes that there are; until the last of them
-- agent:ids:<tenant>:<instant>:<slot>   hash  id -> letter of its state, digest (16 characters), number of its run; until
--                                             the instant
local IDS = 'agent:ids:'
-- Instants per window, which an id may be remembered longer by a part of that; instants that are looked at, of windows of
-- different lengths; hashes per instant.
local INSTANTS_EACH, MOST_INSTANTS, SLOTS = 8, 32, 1024
-- Characters of a digest, which is written in hexadecimal: what is remembered of an id takes 32 bytes with them, and less
-- than 120 with the id where thousands share a hash.
local DIGEST_LENGTH = 16
local LEAST_MS = 3600000

-- The key of the hash of an id, in two parts: what comes before its instant, and behind it.
local function around_instant(id)
  return IDS .. tenant_of(id) .. ':', ':' .. tonumber(redis.sha1hex(id):sub(1, 6), 16) % SLOTS
end

-- The part of a digest that is remembered; of another program's it is filled up.
local function shortened(digest)
  return ((digest or '') .. ('-'):rep(DIGEST_LENGTH)):sub(1, DIGEST_LENGTH)
end

-- How long (ms) an ended task's hash is kept: while its result is, and at least while its last events are read.
local function kept_ms(result_ms, window_ms)
  return whole(math.min(math.max(result_ms, LEAST_MS), window_ms))
end

-- Remember the id of a task that has just ended, with its digest and the number of its run, if it has one.
local function remember_id(id, state, digest, number, window_ms, now_ms)
  local step = math.ceil(window_ms / INSTANTS_EACH)
  local until_ms = (math.floor((now_ms + window_ms) / step) + 1) * step
  local instant, left_ms = whole(until_ms), whole(until_ms - now_ms)
  local before, behind = around_instant(id)
  local key, instants_key = before .. instant .. behind, IDS .. tenant_of(id)
  redis.pcall('HSET', key, id, state:sub(1, 1) .. shortened(digest) .. (number or ''))
  -- A hash that has a time to live is there already, and so is its instant.
  if redis.pcall('PEXPIRE', key, left_ms, 'NX') == 1 and redis.pcall('ZADD', instants_key, instant, instant) == 1 then
    redis.pcall('ZREMRANGEBYSCORE', instants_key, '-inf', whole(now_ms))
    if redis.pcall('PEXPIRE', instants_key, left_ms, 'GT') ~= 1 then
      redis.pcall('PEXPIRE', instants_key, left_ms, 'NX')
    end
  end
end

-- Find an id of which nothing else is left. Returns its state, what is remembered of its digest, and the number of its
-- run if it has one; nothing: it is unknown.
local function recall_id(id, now_ms)
  local instants = redis.pcall('ZRANGE', IDS .. tenant_of(id), '(' .. whole(now_ms), '+inf', 'BYSCORE', 'LIMIT', 0,
    MOST_INSTANTS)
  if not instants[1] then
    return
  end
  local before, behind = around_instant(id)
  for _, instant in ipairs(instants) do
    local found = redis.pcall('HGET', before .. instant .. behind, id)
    if found then
      local states = {s = 'success', e = 'error', t = 'timeout', c = 'cancelled', i = 'interrupted'}
      return states[found:sub(1, 1)], found:sub(2, DIGEST_LENGTH + 1), natural(found:sub(DIGEST_LENGTH + 2))
    end
  end
end
