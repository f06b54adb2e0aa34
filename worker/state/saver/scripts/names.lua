-- Names of checkpoints, <bytes of the namespace>:<namespace>:<id>, and what their records say in front.

-- The part of a name that all checkpoints of a namespace share.
local function prefix_of(name)
  local digits = name:match('^(%d+):') or '0'
  return name:sub(1, #digits + tonumber(digits) + 2)
end

-- The end of a range of names that begin with `prefix`: its last colon becomes the character after that.
local function range_end(prefix)
  return prefix:sub(1, -2) .. ';'
end

-- The packed header of a record, of which the first byte is the format and the next two are the header's length.
local function packed_header(record)
  return record:sub(4, 3 + (record:byte(2) or 0) * 256 + (record:byte(3) or 0))
end

-- How many further fields the writes of a checkpoint take; what another program wrote there counts no fields that are not.
local function further_fields(state_key, name)
  local number = tonumber(redis.call('HGET', state_key, 'n' .. name) or '')
  return number and math.min(number, redis.call('HLEN', state_key)) or 0
end
