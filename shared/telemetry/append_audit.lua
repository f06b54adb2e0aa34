#!lua flags=allow-oom
-- Append one entry to the audit log and store it as its writer's head; trims entries older than the log keeps.
-- Idempotent: repeated after a lost reply, the entry is stored once. An entry that comes before its turn, for example
-- because Redis was busy when the one before arrived, is refused and must be sent again: stored now, it would shut out
-- the one before.
--
-- A new writer looks at HEADS other heads, by chance, and removes those that are too old or none: so few are left that
-- are, however many a producer wrote.
--
-- Uses shared/connections/clock: clock, whole
--
-- KEYS[1] agent:audit        stream  the log
-- KEYS[2] agent:audit:heads  hash    writer -> "<seq> <digest> <at>" of its newest entry
-- ARGV[1] entries older than this are trimmed (ms)
-- ARGV[2] writer
-- ARGV[3] number of the entry, from 1
-- ARGV[4] digest of the entry before, empty for the first
-- ARGV[5] when it happened by the writer's clock (ms)
-- ARGV[6] when the entry before happened (ms)
-- ARGV[7] action
-- ARGV[8] task
-- ARGV[9] details (JSON)
-- ARGV[10] digest of this entry
-- ARGV[11] 1: write it also when those before it are missing
-- Returns the entry's id, empty when it is there already, nil when it comes before its turn
local HEADS = 16
local log_key, heads_key = KEYS[1], KEYS[2]
local keep_ms, writer, seq, prev, at, prev_at = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local action, task, details, digest, may_follow_gap = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11] == '1'

local head = redis.call('HGET', heads_key, writer)
local newest, number = tonumber(head and head:match('^%d+') or 0), tonumber(seq)
if newest >= number then
  return ''
end
local oldest_ms = clock('') - keep_ms
local is_forgotten = not head and tonumber(prev_at) < oldest_ms -- the head of a writer that was silent for so long
if newest < number - 1 and not (may_follow_gap or is_forgotten) then
  return false
end
if not head then
  local heads = redis.call('HRANDFIELD', heads_key, HEADS, 'WITHVALUES')
  for i = 1, #heads, 2 do
    if tonumber(heads[i + 1]:match('%d+$') or 0) < oldest_ms - 86400000 then
      redis.call('HDEL', heads_key, heads[i])
    end
  end
end
local oldest = whole(oldest_ms)
local id = redis.call('XADD', log_key, 'MINID', '~', oldest, '*', 'writer', writer, 'seq', seq, 'prev', prev, 'at', at,
  'prev_at', prev_at, 'action', action, 'task', task, 'details', details, 'digest', digest)
redis.call('HSET', heads_key, writer, seq .. ' ' .. digest .. ' ' .. at)
for _, key in ipairs({log_key, heads_key}) do
  redis.call('PEXPIRE', key, keep_ms + 86400000)
end
return id
