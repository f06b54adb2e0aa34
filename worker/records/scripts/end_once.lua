#!lua flags=allow-oom
-- Record the result of a call that is made once, or that it was not made. Only the caller that has reserved it may: its
-- token is the fence. A worker that has lost the task meanwhile may record what it did all the same, since it is done.
--
-- KEYS[1] agent:ledger:<thread> hash  key of a call -> token of its caller, and its result
-- ARGV[1] key of the call
-- ARGV[2] token of the caller
-- ARGV[3] 1 made | 0 not made
-- ARGV[4] its result; empty: it cannot be kept
-- ARGV[5] how long the ledger is kept (ms)
-- Returns 1 recorded | 0 another caller has reserved the call, or its node has its checkpoint
local ledger_key, key, token, is_made, result, ttl_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local entry, ended = redis.call('HGET', ledger_key, key), token .. '\n' .. result
if entry == ended or (is_made == '0' and not entry) then
  return 1 -- the reply of an earlier call was lost
end
if entry ~= token then
  return 0
end
if is_made == '0' then
  return redis.call('HDEL', ledger_key, key)
end
redis.call('HSET', ledger_key, key, ended)
redis.call('PEXPIRE', ledger_key, ttl_ms)
return 1
