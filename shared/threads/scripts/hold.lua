#!lua flags=allow-oom
-- Begin an operation that writes to a thread, with a fencing token as of a claim: a task that is claimed for the
-- thread from then on has a higher one, and what the operation still writes is refused.
--
-- Uses shared/connections/clock: clock, whole
-- Uses shared/queue/functions/records/thread_rows: is_busy
--
-- KEYS[1] agent:token  string  the token of the last claim
-- ARGV[1] thread
-- ARGV[2] 1 to begin it also while a task of the thread has not ended, which then writes nothing more; else 0
-- ARGV[3] now (ms) in tests, else empty
-- Returns the token | 0 a task of the thread has not ended
local token_key = KEYS[1]
local thread, by_force, now_ms = ARGV[1], ARGV[2] == '1', clock(ARGV[3])
local TOKEN_MS = 86400000

if not by_force and is_busy(thread) then
  return 0
end
local token = math.max((tonumber(redis.call('GET', token_key) or '') or 0) + 1, now_ms * 1000)
redis.call('SET', token_key, whole(token), 'PX', TOKEN_MS)
return token
