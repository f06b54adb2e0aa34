-- Records of runs: what lists of tasks show, from the step that accepts a task to the one that ends it, and for a while
-- after it.
--
-- The runs of a tenant are numbered as they are accepted, and EACH of them share a hash, a block, which is forgotten as a
-- whole. While a task is open its own hash has what changes. A run of a thread has its record beside the thread, and lives
-- as long as that. A key of another type lists nothing, and keeps no task from running.
--
-- Uses shared/connections/clock: natural, whole
-- Uses shared/queue/functions/turns: tenant_of
-- Uses shared/queue/functions/records/thread_runs: write_run
--
-- agent:run_count:<tenant>        string  number of the newest run
-- agent:runs:<tenant>:<block>     hash    of run number block * EACH + n: n -> id, a blank, its thread, a line break, and of
--                                         a run without thread its record; states: a letter for each n, that of open ones
--                                         at the end left out; graph:<graph>, user:<user>: the n of their runs, two bytes
--                                         each; since: when its first run was accepted (ms); until: when it is forgotten
--                                         (ms), a day after its last change, and up to an hour later
-- A record is a line of JSON, [state, graph, user, created, started, ended (ms), attempts, input tokens, output tokens,
-- nano-dollars, type of the error], empty while the task is open, a line break, and what the client said about the run.
local COUNT, BLOCK = 'agent:run_count:', 'agent:runs:'
local EACH = 512
local BLOCK_MS, COUNT_MS = 86400000, 691200000
-- A block's time to live is written anew when it is shorter than it should be, for so much (ms) longer.
local LONGER_MS = 3600000
local OPEN_LETTER = 'o'
-- The fields of a task's hash of which its record is made.
local RECORDED = {'graph', 'user', 'created', 'started', 'epoch', 'waits', 'input_tokens', 'output_tokens', 'cost_nano_usd'}

-- The letter of a state in which a run has ended; nil for another.
local function letter_of(state)
  return ({success = 's', error = 'e', timeout = 't', cancelled = 'c', interrupted = 'i'})[state]
end

-- The key of a numbered run's block, and its n there.
local function block_of(tenant, number)
  return BLOCK .. tenant .. ':' .. whole(math.floor(number / EACH)), number % EACH
end

-- What begins the entry of a run in its block.
local function name_of_run(id, thread)
  return id .. ' ' .. (thread or '') .. '\n'
end

-- Keep a block for a day from now on. `until_ms` is how long it is kept so far. Returns whether that was changed.
local function keep_block(block_key, until_ms, now_ms)
  if natural(until_ms, 0) >= now_ms + BLOCK_MS then
    return false
  end
  redis.pcall('HSET', block_key, 'until', whole(now_ms + BLOCK_MS + LONGER_MS))
  redis.pcall('PEXPIRE', block_key, BLOCK_MS + LONGER_MS)
  return true
end

-- The letters of a block with another one at n.
local function with_letter(states, n, letter)
  states = (states or '') .. OPEN_LETTER:rep(n - #(states or ''))
  return states:sub(1, n) .. letter .. states:sub(n + 2)
end

-- Begin the record of a task. What its client said about the run may be empty, and that of a run of a thread is kept with
-- the thread; blocks older than the newest `most` runs are forgotten. Returns the number of the run, which belongs into
-- the task's hash.
local function begin_record(id, thread, graph, user, about, most, now_ms)
  local tenant = tenant_of(id)
  local count_key = COUNT .. tenant
  local number = redis.pcall('INCR', count_key)
  if type(number) ~= 'number' then -- another program wrote there
    redis.pcall('DEL', count_key)
    number = redis.pcall('INCR', count_key)
  end
  local block_key, n = block_of(tenant, number)
  local of_graph, of_user = 'graph:' .. graph, 'user:' .. user:gsub('^.-%-%-', '', 1)
  local at = string.char(math.floor(n / 256), n % 256)
  local listed = redis.pcall('HMGET', block_key, of_graph, of_user, 'until')
  local entry = name_of_run(id, thread) .. (thread == '' and '\n' .. about or '')
  redis.pcall('HSET', block_key, n, entry, of_graph, (listed[1] or '') .. at, of_user, (listed[2] or '') .. at)
  if n == 0 or number == 1 then
    redis.pcall('HSET', block_key, 'since', whole(now_ms))
    redis.pcall('UNLINK', (block_of(tenant, number - most - EACH)))
  end
  if keep_block(block_key, listed[3], now_ms) or number == 1 then
    redis.pcall('PEXPIRE', count_key, COUNT_MS)
  end
  return number
end

local function quoted(text)
  return text:find('^[%w%%@._+-]*$') and '"' .. text .. '"' or cjson.encode(text)
end

-- The first line of a record; `task` are the fields RECORDED, as they stand in the task's hash: a run in which another
-- program has written what is no number there is not listed. `ended` are digits (ms).
local function record_line(state, task, ended, error_type)
  local graph, user, created, started, epoch, waits, input_tokens, output_tokens, cost = unpack(task)
  user = (user or ''):gsub('^.-%-%-', '', 1)
  local attempts = math.max(natural(epoch, 0) - natural(waits, 0), 0)
  return '[' .. quoted(state) .. ',' .. quoted(graph or '') .. ',' .. quoted(user) .. ',' .. (created or 0) .. ','
    .. (started or 0) .. ',' .. ended .. ',' .. attempts .. ',' .. (input_tokens or 0) .. ',' .. (output_tokens or 0) .. ','
    .. (cost or 0) .. ',' .. quoted(error_type) .. ']'
end

-- The same of a task that may be open, of what its hash says; nothing: there is no such task.
local function line_of_task(id)
  local task = redis.call('HMGET', 'agent:task:' .. id, 'state', unpack(RECORDED))
  return task[1] and record_line(task[1], {unpack(task, 2)}, 0, '') or nil
end

-- Complete the record of a task that has just ended, unless it was deleted or forgotten meanwhile. The number of the run is
-- false if an earlier version accepted it; `task` are the fields RECORDED.
local function end_record(id, number, thread, state, task, error_type, now_ms)
  local line = record_line(state, task, whole(now_ms), error_type)
  if thread then
    write_run(thread, id, line)
  end
  number = natural(number)
  if not number then
    return
  end
  local block_key, n = block_of(tenant_of(id), number)
  local entry, states, until_ms = unpack(redis.pcall('HMGET', block_key, n, 'states', 'until'))
  local name = name_of_run(id, thread)
  if not entry or entry:sub(1, #name) ~= name then
    return
  end
  states = with_letter(states, n, letter_of(state))
  if thread then
    redis.pcall('HSET', block_key, 'states', states)
  else
    local about = entry:sub(entry:find('\n', #name + 1, true) or #entry + 1)
    redis.pcall('HSET', block_key, n, name .. line .. about, 'states', states)
  end
  keep_block(block_key, until_ms, now_ms)
end

-- Forget the record of a run in its block. The arguments are those of `end_record`.
local function forget_record(id, number, thread)
  number = natural(number)
  if number then
    local block_key, n = block_of(tenant_of(id), number)
    local entry, name = redis.pcall('HGET', block_key, n), name_of_run(id, thread)
    if type(entry) == 'string' and entry:sub(1, #name) == name then
      redis.pcall('HDEL', block_key, n)
    end
  end
end

-- The id and the thread of a run, empty for none, of its entry in a block, and its record if it stands there; nothing: it
-- was overwritten, or an earlier version wrote it.
local function read_entry(entry)
  if type(entry) == 'string' then
    return entry:match('^([%w_-]+) ([^\n]*)\n(.*)$')
  end
end
