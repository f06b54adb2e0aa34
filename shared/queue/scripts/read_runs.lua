#!lua flags=no-writes
-- Read runs by their ids: of each its record, or what its task's hash says while it is open.
--
-- Uses shared/connections/clock: clock, natural
-- Uses shared/queue/functions/records: LETTERS, OF_THREAD, block_of, record_line
-- Uses shared/queue/functions/remembered_ids: recall_id
-- Uses shared/queue/functions/turns: tenant_of
--
-- ARGV[1] thread in which the runs are known, empty for any
-- ARGV[2] now (ms) in tests, else empty
-- ARGV from the 3rd on: ids, at most 100
-- Returns for each {thread, first line of the record, what its client said}, or {} of an unknown one and of one that was
--   rolled back; the line has the state only where nothing but the id is remembered
local thread, now_ms = ARGV[1], clock(ARGV[2])

-- The thread of a numbered run, empty for none, and its record if it stands in the block.
local function of_block(id, number)
  local key, n = block_of(tenant_of(id), number)
  local name, record = (redis.pcall('HGET', key, n) or ''):match('^([^\n]*)\n?(.*)$')
  local is_read, id_and_thread = pcall(cjson.decode, name)
  if is_read and type(id_and_thread) == 'table' and id_and_thread[1] == id and type(id_and_thread[2]) == 'string' then
    return id_and_thread[2], record
  end
  return '', ''
end

local function read(id)
  local state, number, of, enters, cancel = unpack(redis.pcall('HMGET', 'agent:task:' .. id, 'state', 'run', 'thread',
    'enters', 'cancel'))
  local known_in, record = of or enters or '', ''
  number = natural(number)
  if not state then
    local of_id = {recall_id(id, now_ms)}
    state, number = of_id[1], of_id[3]
    known_in = thread
  elseif thread ~= '' and known_in ~= thread then
    return {}
  end
  if cancel == 'rollback' and LETTERS[state] then -- it has ended, and is listed no more
    return {}
  end
  if known_in == '' and number then
    known_in, record = of_block(id, number)
  end
  if known_in ~= '' then
    record = redis.pcall('HGET', OF_THREAD .. known_in, id) or ''
  end
  local line, about = record:match('^([^\n]*)\n?(.*)$')
  if line == '' then
    line = record_line(id, 0) or state and cjson.encode({state})
  end
  return line and {known_in, line, about} or {}
end

local found = {}
for i = 3, #ARGV do
  found[i - 2] = read(ARGV[i])
end
return found
