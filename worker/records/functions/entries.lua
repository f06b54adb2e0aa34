-- The entries of a ledger: what has become of the calls that are made once. An entry is the token of the caller that
-- has reserved it, and, when its outcome is known, a line break and the result as checkpoints are written.
-- An entry in a script's slots: its key, the caller's token, 1 if the service takes the key as an idempotency key, how
-- long the ledger is kept (ms), most entries.

-- Returns what has become of a call and its result, or false if it may start: it is new, it is this caller's own, whose
-- reply was lost, or its service tells a repeated call by its key.
local function find_entry(ledger_key, entry)
  local key, token, takes_key, most = entry[1], entry[2], entry[3] == '1', tonumber(entry[5])
  local text = redis.call('HGET', ledger_key, key)
  if not text then
    return redis.call('HLEN', ledger_key) >= most and 'full', ''
  end
  local ends = text:find('\n', 1, true)
  if ends then
    return 'done', text:sub(ends + 1)
  end
  return text ~= token and not takes_key and 'unknown', ''
end

local function reserve_entry(ledger_key, entry)
  redis.call('HSET', ledger_key, entry[1], entry[2])
  redis.call('PEXPIRE', ledger_key, entry[4])
end
