-- Read what attempts at a task have recorded. A journal of more entries than attempts record is deleted.
--
-- KEYS[1] agent:journal:<id>   hash    position -> answer
-- ARGV[1] most entries
-- Returns fields and values in turn
local journal_key, most = KEYS[1], tonumber(ARGV[1])

if redis.call('HLEN', journal_key) > most then
  redis.call('UNLINK', journal_key)
  return {}
end
return redis.call('HGETALL', journal_key)
