-- Keep the spans of one attempt until a worker has sent them to the OTLP endpoint.
-- Not allow-oom: with memory full, spans are the first thing to go without.
--
-- Uses shared/queue/fence: fence
--
-- KEYS[1] agent:spans      stream  spans: OTLP ExportTraceServiceRequest
-- KEYS[2] agent:task:<id>  hash    the task whose attempt it is; the stream itself where there is none
-- ARGV[1] the spans, encoded
-- ARGV[2] entries kept, about
-- ARGV[3] time after which the stream is forgotten (ms)
-- ARGV[4] epoch of the attempt, empty where there is none
-- ARGV[5] worker
-- Returns the entry's id, empty when another worker owns the task: its attempt is the one that counts
local spans_key, task_key = KEYS[1], KEYS[2]
local encoded, entries, keep_ms, epoch, worker = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if epoch ~= '' and not fence(task_key, epoch, worker) then
  return ''
end
local id = redis.call('XADD', spans_key, 'MAXLEN', '~', entries, '*', 'spans', encoded)
redis.call('PEXPIRE', spans_key, keep_ms)
return id
