#!lua flags=allow-oom
-- Report how an admitted call ended, and make the transition that follows from it.
--
-- Uses shared/connections/clock: clock
-- Uses shared/breaker/window: add_call, bucket_at, window_of
--
-- KEYS[1]  agent:breaker:<name>          hash    the breaker
-- KEYS[2]  agent:breaker_probes:<name>   zset    token of a probe in flight -> end of its lease (ms)
-- KEYS[3]  agent:breakers                zset    name -> when it may be forgotten (ms)
-- ARGV[1]  name
-- ARGV[2]  token of the call
-- ARGV[3]  generation under which it was admitted
-- ARGV[4]  outcome: ok | fail | ignore | cancel | rate_limited | quota
-- ARGV[5]  the provider asked for a pause of this length (ms), 0 for none
-- ARGV[6]  consecutive failures that open
-- ARGV[7]  window (ms), 0 for none
-- ARGV[8]  calls in the window from which on the failed share alone opens
-- ARGV[9]  failed share of the window that opens, from 0 to 1
-- ARGV[10] first open time (ms)
-- ARGV[11] longest open time (ms)
-- ARGV[12] jitter of the open time, as a share of it
-- ARGV[13] good probes that close
-- ARGV[14] longest cooldown (ms)
-- ARGV[15] keep the keys after their last use (ms)
-- ARGV[16] now (ms) in tests, else empty
-- Returns {state before, state after, generation, why it is open or empty, rest of the open time (ms), rest of the
--   cooldown (ms)}
--   why: failures | failure_rate | probe_failed | quota
local key, probes_key, index_key = KEYS[1], KEYS[2], KEYS[3]
local name, token, admitted_under, outcome, pause_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local window_ms, keep_ms, now_ms = tonumber(ARGV[7]), tonumber(ARGV[15]), clock(ARGV[16])

local state, generation, open_ends_at, cooldown_ends_at, forget_at, failures = unpack(redis.call(
  'HMGET', key, 'state', 'generation', 'open_ends_at', 'cooldown_ends_at', 'forget_at', 'failures'))
state, generation, forget_at = state or 'closed', tonumber(generation or 0), tonumber(forget_at or 0)
open_ends_at, cooldown_ends_at = tonumber(open_ends_at or 0), tonumber(cooldown_ends_at or 0)
local before, why = state, ''

local votes = admitted_under == generation
local bucket = window_ms > 0 and bucket_at(now_ms, window_ms)

if votes and state == 'closed' and outcome == 'ok' then
  if bucket then
    add_call(key, bucket, 0)
  end
  if failures ~= '0' then
    redis.call('HSET', key, 'failures', 0)
  end
else -- the few others: what only they need is read, and made, for them only
  local openings
  why, openings = unpack(redis.call('HMGET', key, 'why', 'openings'))
  why, openings = why or '', tonumber(openings or 0)
  local failure_threshold, min_calls, failure_rate = tonumber(ARGV[6]), tonumber(ARGV[8]), tonumber(ARGV[9])
  local open_ms, max_open_ms, jitter = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
  local successes_to_close, max_cooldown_ms = tonumber(ARGV[13]), tonumber(ARGV[14])

  -- A new generation starts with nothing counted and no probe in flight.
  local function become(after, reason, times_opened, ends_at)
    state, why, generation, open_ends_at, forget_at = after, reason, generation + 1, ends_at, 0
    redis.call('DEL', key, probes_key)
    redis.call('HSET', key, 'state', state, 'why', why, 'generation', generation, 'changed_at', now_ms,
      'openings', times_opened, 'open_ends_at', open_ends_at, 'cooldown_ends_at', cooldown_ends_at)
  end

  local function open(reason)
    local base_ms = math.min(open_ms * 2 ^ openings, max_open_ms)
    -- Redis seeds math.random alike for every script call, so the jitter comes from the name and the generation.
    local random = tonumber(redis.sha1hex(name .. ':' .. generation):sub(1, 8), 16) / 0xffffffff
    become('open', reason, openings + 1, now_ms + math.floor(base_ms * (1 + jitter * (2 * random - 1))))
  end

  local function count_failure()
    failures = redis.call('HINCRBY', key, 'failures', 1)
    local calls, failed = 1, 1
    if bucket then
      add_call(key, bucket, 1)
      calls, failed = window_of(key, bucket)
    end
    if failed / calls < failure_rate then
      return
    end
    if failures >= failure_threshold then
      open('failures')
    elseif bucket and calls >= min_calls then
      open('failure_rate')
    end
  end

  -- An answer shows that the provider is back however late it comes, and counts once however often it is reported. A
  -- failure counts while the probe's lease holds: after it, the next probe decides.
  local function vote_of_probe()
    local lease_ends_at = tonumber(redis.call('ZSCORE', probes_key, token) or 0)
    redis.call('ZREM', probes_key, token)
    if outcome == 'ok' or outcome == 'ignore' then
      if redis.call('HSETNX', key, 'good:' .. token, 1) == 1
        and redis.call('HINCRBY', key, 'successes', 1) >= successes_to_close then
        become('closed', '', 0, 0)
      end
    elseif lease_ends_at > now_ms then
      if outcome == 'quota' then
        open('quota')
      elseif outcome == 'fail' then
        open('probe_failed')
      end
    end
  end

  -- A pause is no vote: it holds in every state and generation.
  local pause_ends_at = now_ms + math.min(pause_ms, max_cooldown_ms)
  if outcome == 'rate_limited' and pause_ends_at > cooldown_ends_at then
    cooldown_ends_at = pause_ends_at
    redis.call('HSET', key, 'cooldown_ends_at', cooldown_ends_at)
  end
  if votes and state == 'half_open' then
    vote_of_probe()
  elseif votes and state == 'closed' and outcome == 'quota' then
    open('quota')
  elseif votes and state == 'closed' and outcome == 'fail' then
    count_failure()
  end
end

-- The TTL is extended once a minute, and after a transition, which begins with a new hash.
local new_forget_at = math.max(now_ms, open_ends_at, cooldown_ends_at) + keep_ms
if new_forget_at - forget_at >= 60000 then
  local ttl_ms = new_forget_at - now_ms
  redis.call('HSET', key, 'forget_at', new_forget_at)
  redis.call('PEXPIRE', key, ttl_ms)
  redis.call('ZREMRANGEBYSCORE', index_key, '-inf', now_ms)
  redis.call('ZADD', index_key, new_forget_at, name)
  redis.call('PEXPIRE', index_key, ttl_ms, 'NX')
  redis.call('PEXPIRE', index_key, ttl_ms, 'GT')
end
return {before, state, generation, why, math.max(open_ends_at - now_ms, 0), math.max(cooldown_ends_at - now_ms, 0)}
