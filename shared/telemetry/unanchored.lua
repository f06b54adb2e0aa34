#!lua flags=no-writes
-- Read the audit log's newest anchor and the entries behind it. See shared/telemetry/anchors.py.
--
-- Uses shared/connections/clock: clock
--
-- KEYS[1] agent:audit    stream  the log
-- KEYS[2] agent:anchors  hash    newest: number of the newest anchor; number -> anchor
-- ARGV[1] most entries to return
-- ARGV[2] an anchor younger than this is left alone (ms)
-- ARGV[3] now (ms) in tests, else empty
-- Returns the newest anchor, empty for none, and then "<id> <digest>" of each entry; no entry while the anchor is young
local log_key, anchors_key = KEYS[1], KEYS[2]
local most, young_ms, now_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), clock(ARGV[3])

local newest = redis.call('HGET', anchors_key, 'newest')
local anchor = newest and redis.call('HGET', anchors_key, newest) or ''
local last, at = anchor:match('"last":"(%d+%-%d+)"'), tonumber(anchor:match('"at":(%d+)') or 0)
local reply = {anchor}
if now_ms - at < young_ms then
  return reply
end
for _, entry in ipairs(redis.call('XRANGE', log_key, last and '(' .. last or '-', '+', 'COUNT', most)) do
  local digest = ''
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'digest' then
      digest = entry[2][i + 1]
    end
  end
  reply[#reply + 1] = entry[1] .. ' ' .. digest
end
return reply
