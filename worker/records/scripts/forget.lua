-- Forget records of calls whose node has its checkpoint.
--
-- KEYS[1] hash    agent:journal:<id> or agent:ledger:<thread>
-- ARGV[1..] fields, 1,000 at most
-- Returns how many there were
return redis.call('HDEL', KEYS[1], unpack(ARGV))
