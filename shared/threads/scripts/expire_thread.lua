#!lua flags=allow-oom
-- Let the checkpoints of a thread go with what is listed of it, if it has a TTL of its own and no task of it is open.
--
-- Uses shared/queue/functions/records/thread_rows: ROW, expire_state, own_ttl_ms
--
-- ARGV[1] thread
-- Returns 1
expire_state(ARGV[1], own_ttl_ms(ARGV[1], redis.pcall('HGET', ROW .. ARGV[1], 'ttl')))
return 1
