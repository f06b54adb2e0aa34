-- The runs of a thread: one list, which is their order and their records alike.
--
-- agent:thread_runs:<thread>  list  of its newest 1,000 runs, the newest first: id, first line of the record (records.lua),
--                                   empty while the task is open, and what the client said about the run; as long as
--                                   the thread is listed (thread_rows.lua)
local RUNS, MOST_RUNS, PARTS = 'agent:thread_runs:', 1000, 3
local REMOVED = '-' -- no id begins with a dash, no line, and nothing that a client said

-- Add a run that was accepted.
local function add_run(thread, id, about)
  local length = redis.pcall('LPUSH', RUNS .. thread, about, '', id)
  if type(length) == 'number' and length % PARTS > 0 then -- another program has added to it: no run is found in it any more
    redis.pcall('DEL', RUNS .. thread)
    redis.pcall('LPUSH', RUNS .. thread, about, '', id)
  end
  if type(length) == 'number' and length > MOST_RUNS * PARTS then
    redis.pcall('LTRIM', RUNS .. thread, 0, MOST_RUNS * PARTS - 1)
  end
end

-- Where a run stands in the list; nothing: it does not.
local function place_of_run(thread, id)
  local place = redis.pcall('LPOS', RUNS .. thread, id)
  return type(place) == 'number' and place % PARTS == 0 and place or nil
end

-- Write the first line of a run's record, unless it was deleted.
local function write_run(thread, id, line)
  local place = place_of_run(thread, id)
  if place then
    redis.pcall('LSET', RUNS .. thread, place + 1, line)
  end
end

-- Returns the first line of a run's record, what its client said, and its place; nothing: it is not listed.
local function read_run(thread, id)
  local place = place_of_run(thread, id)
  if place then
    local _, line, about = unpack(redis.pcall('LRANGE', RUNS .. thread, place, place + PARTS - 1))
    return line or '', about or '', place
  end
end

local function remove_run(thread, id)
  local place = place_of_run(thread, id)
  for i = 0, place and PARTS - 1 or -1 do
    redis.pcall('LSET', RUNS .. thread, place + i, REMOVED)
  end
  if place then
    redis.pcall('LREM', RUNS .. thread, PARTS, REMOVED)
  end
end
