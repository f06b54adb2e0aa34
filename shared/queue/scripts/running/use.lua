-- Add what a model call used to its task, so that the result of a later attempt includes it.
--
-- KEYS[1] agent:task:<id>      hash    the task's state
-- ARGV[1] input tokens
-- ARGV[2] output tokens
-- ARGV[3] cost (nano-dollars)
-- ARGV[4] 1 if they are estimates, else 0
-- Returns 1 added | 0 the task is not kept any more
local task_key = KEYS[1]
local input_tokens, output_tokens, cost, estimated_calls = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local state, input_before, output_before, cost_before = unpack(redis.call('HMGET', task_key, 'state', 'input_tokens',
  'output_tokens', 'cost_nano_usd'))
if not state then
  return 0
end
redis.call('HSET', task_key, 'input_tokens', (tonumber(input_before) or 0) + input_tokens,
  'output_tokens', (tonumber(output_before) or 0) + output_tokens,
  'cost_nano_usd', (tonumber(cost_before) or 0) + cost)
if estimated_calls ~= '0' then
  redis.call('HINCRBY', task_key, 'estimated_calls', estimated_calls)
end
return 1
