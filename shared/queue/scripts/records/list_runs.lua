#!lua flags=no-writes
-- List runs of a tenant, the newest first: a page, and where to go on. Looks at a bounded number of records.
--
-- Uses shared/connections/clock: natural, whole
-- Uses shared/queue/functions/records/records: BLOCK, COUNT, EACH, OPEN_LETTER, letter_of, line_of_task, read_entry
-- Uses shared/queue/functions/records/thread_runs: read_run
--
-- ARGV[1] tenant
-- ARGV[2] only the runs that were accepted before the one of this number, 0 for all
-- ARGV[3] n, runs at most
-- ARGV[4] state, empty for all
-- ARGV[5] graph, as in the names of queues, empty for all
-- ARGV[6] user, without the tenant, as `user:<user>`, empty for all
-- ARGV[7] accepted since (ms), 0 for all
-- ARGV[8] accepted until (ms), 0 for all
-- ARGV[9] number of the oldest run that is listed, counted from the newest
-- Returns {number to go on from, 0 at the end, {id, thread, first line of the record, what its client said}, ...}
local tenant, before, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local state, graph, user = ARGV[4], ARGV[5], ARGV[6]
local since, until_ms, most = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local MOST_BLOCKS, MOST_RECORDS = 200, 350
-- Entries of a thread's list that take as long to pass as a record to read.
local PASSED_EACH = 100
local is_open = state == 'pending' or state == 'running'
local letter = is_open and OPEN_LETTER or letter_of(state)
local looked, found = 0, {}

-- The n of the runs of a block that may be asked for, the newest first, up to `last`.
local function candidates(states, of_graph, of_user, last)
  local listed = of_user or of_graph
  states = states or ''
  local both, chosen = {}, {}
  if of_user and of_graph then
    for i = 1, #of_graph, 2 do
      both[of_graph:byte(i) * 256 + of_graph:byte(i + 1)] = true
    end
  end
  for i = listed and #listed - 1 or last, listed and 1 or 0, listed and -2 or -1 do
    local at = listed and listed:byte(i) * 256 + listed:byte(i + 1) or i
    local known = at < #states and states:sub(at + 1, at + 1) or OPEN_LETTER
    if at <= last and (not letter or known == letter)
        and (not (of_user and of_graph) or both[at]) then
      chosen[#chosen + 1] = at
    end
  end
  return chosen
end

-- Read one run; nothing if it is not asked for, or its record is gone.
local function read(block_key, at)
  local id, thread, record = read_entry(redis.pcall('HGET', block_key, at))
  if not id then
    return
  end
  local line, about = record:match('^([^\n]*)\n?(.*)$')
  if thread ~= '' then
    local place
    line, about, place = read_run(thread, id)
    looked = looked + (place or 0) / PASSED_EACH
  end
  if not line or line == '' then
    line = line_of_task(id)
  end
  local values_read, values = pcall(cjson.decode, line or '')
  if not values_read or type(values) ~= 'table' then
    return
  end
  local accepted = tonumber(values[4]) or 0
  if accepted < since then
    return nil, true
  end
  if (until_ms == 0 or accepted <= until_ms) and (state == '' or values[1] == state) then
    return {id, thread, line, about or ''} -- a deleted thread has no record of it, its hash may be there
  end
end

local newest = natural(redis.pcall('GET', COUNT .. tenant), 0)
local number = before > 0 and math.min(before - 1, newest) or newest
local oldest = math.max(newest - most, 0)
for _ = 1, MOST_BLOCKS do
  if number <= oldest then
    return {0, unpack(found)}
  end
  local block, last = math.floor(number / EACH), number % EACH
  local block_key = BLOCK .. tenant .. ':' .. whole(block)
  local fields = redis.pcall('HMGET', block_key, 'states', 'since', 'graph:' .. graph, user)
  local is_later = until_ms > 0 and natural(fields[2], 0) > until_ms
  local is_missing = (graph ~= '' and not fields[3]) or (user ~= '' and not fields[4])
  if not is_later and not is_missing and redis.pcall('EXISTS', block_key) == 1 then
    for _, at in ipairs(candidates(fields[1], graph ~= '' and fields[3], user ~= '' and fields[4], last)) do
      number = block * EACH + at
      if number <= oldest then
        return {0, unpack(found)}
      elseif #found >= n or looked >= MOST_RECORDS then
        return {number + 1, unpack(found)}
      end
      looked = looked + 1
      local run, is_over = read(block_key, at)
      if is_over then
        return {0, unpack(found)}
      end
      found[#found + 1] = run
    end
  end
  number = block * EACH - 1
end
return {number > oldest and number + 1 or 0, unpack(found)}
