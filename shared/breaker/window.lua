-- The sliding window of a breaker: a ring of ten slots in its hash, each "bucket calls failed". A slot that holds another
-- bucket is out of the window.
local BUCKETS = 10

local function bucket_at(now_ms, window_ms)
  return math.floor(now_ms * BUCKETS / window_ms)
end

local function slot(bucket)
  return 'slot:' .. bucket % BUCKETS
end

-- Returns the calls of a bucket and how many of them failed.
local function counted(key, bucket)
  local at, calls, failed = (redis.call('HGET', key, slot(bucket)) or ''):match('^(%d+) (%d+) (%d+)$')
  if tonumber(at) ~= bucket then
    return 0, 0
  end
  return tonumber(calls), tonumber(failed)
end

-- Add a call to a bucket; `failed` is 1 if it failed, else 0.
local function add_call(key, bucket, failed)
  local calls, failed_before = counted(key, bucket)
  redis.call('HSET', key, slot(bucket), string.format('%d %d %d', bucket, calls + 1, failed_before + failed))
end

-- Returns calls and failed calls of the whole window that ends with the bucket `last`.
local function window_of(key, last)
  local calls, failed = 0, 0
  for bucket = last - BUCKETS + 1, last do
    local more_calls, more_failed = counted(key, bucket)
    calls, failed = calls + more_calls, failed + more_failed
  end
  return calls, failed
end
