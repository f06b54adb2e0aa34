#!lua flags=no-writes
-- Read runs by their ids: of each its record, or what its task's hash says while it is open.
--
-- Uses shared/connections/clock: clock, natural
-- Uses shared/queue/functions/records/records: block_of, letter_of, line_of_task, read_entry
-- Uses shared/queue/functions/records/remembered_ids: recall_id
-- Uses shared/queue/functions/records/thread_runs: read_run
-- Uses shared/queue/functions/turns: tenant_of
--
-- ARGV[1] thread in which the runs are known, empty for any
-- ARGV[2] now (ms) in tests, else empty
-- ARGV from the 3rd on: ids, at most 100
-- Returns for each {thread, first line of the record, what its client said}, or {} of one that is unknown, was deleted or
--   rolled back, or has ended and is none of the thread's newest; the line has the state only where nothing but the id is
--   remembered
local thread, now_ms = ARGV[1], clock(ARGV[2])

-- The thread of a numbered run, empty for none, and its record if it stands in the block.
local function of_block(id, number)
  local key, n = block_of(tenant_of(id), number)
  local known, known_in, record = read_entry(redis.pcall('HGET', key, n))
  if known == id then
    return known_in, record
  end
  return '', ''
end

local function read(id)
  local state, number, of, enters, cancel, deleted = unpack(redis.pcall('HMGET', 'agent:task:' .. id, 'state', 'run',
    'thread', 'enters', 'cancel', 'deleted'))
  local known_in, record = of or enters or '', ''
  number = natural(number)
  if not state then
    local of_id = {recall_id(id, now_ms)}
    state, number = of_id[1], of_id[3]
    known_in = thread
  elseif thread ~= '' and known_in ~= thread then
    return {}
  end
  if (cancel == 'rollback' or deleted) and letter_of(state) then -- it has ended, and is listed no more
    return {}
  end
  if known_in == '' and number then
    known_in, record = of_block(id, number)
  end
  local line, about = record:match('^([^\n]*)\n?(.*)$')
  if known_in ~= '' then
    line, about = read_run(known_in, id)
    if not line and thread ~= '' and letter_of(state) then
      return {}
    end
  end
  if not line or line == '' then
    line = line_of_task(id) or state and '["' .. state .. '"]'
  end
  return line and {known_in, line, about or ''} or {}
end

local found = {}
for i = 3, #ARGV do
  found[i - 2] = read(ARGV[i])
end
return found
