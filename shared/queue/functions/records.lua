-- Records of runs: what lists of tasks show, from the step that accepts a task to the one that ends it, and for a while
-- after it.
--
-- The runs of a tenant are numbered as they are accepted, and EACH of them share a hash, a block, which is forgotten as a
-- whole. While a task is open its own hash has what changes. A run of a thread has its record beside the thread, and lives
-- as long as that. A key of another type lists nothing, and keeps no task from running.
--
-- Uses shared/connections/clock: natural, whole
-- Uses shared/queue/functions/turns: tenant_of
--
-- agent:run_count:<tenant>        string  number of the newest run
-- agent:runs:<tenant>:<block>     hash    of run number block * EACH + n: n -> name, [id, thread] as JSON, and of a run
--                                         without thread a line break and its record; states: a letter for each n, that of
--                                         open ones at the end left out; graph:<graph>, user:<user>: the n of their runs,
--                                         two bytes each; since: when its first run was accepted (ms). A day
-- agent:thread_records:<thread>   hash    id -> record, of the newest 1,000 runs; as long as the thread is listed
-- A record is a line of JSON, [state, graph, user, created, started, ended (ms), attempts, input tokens, output tokens,
-- nano-dollars, type of the error], empty while the task is open, a line break, and what the client said about the run.
local COUNT, BLOCK, OF_THREAD = 'agent:run_count:', 'agent:runs:', 'agent:thread_records:'
local EACH = 512
local BLOCK_MS, COUNT_MS = 86400000, 691200000
-- A task that ends so soon (ms) after it was accepted does not prolong the life of its block.
local SOON_MS = 3600000
local OPEN_LETTER = 'o'
local LETTERS = {success = 's', error = 'e', timeout = 't', cancelled = 'c', interrupted = 'i'}

-- The key of a numbered run's block, and its n there.
local function block_of(tenant, number)
  return BLOCK .. tenant .. ':' .. whole(math.floor(number / EACH)), number % EACH
end

-- The letters of a block with another one at n.
local function with_letter(states, n, letter)
  states = (states or '') .. OPEN_LETTER:rep(n - #(states or ''))
  return states:sub(1, n) .. letter .. states:sub(n + 2)
end

-- Begin the record of a task. What its client said about the run may be empty; blocks older than the newest `most` runs are
-- forgotten. Returns the number of the run, which belongs into the task's hash.
local function begin_record(id, thread, graph, user, about, most, now_ms)
  local tenant = tenant_of(id)
  local count_key = COUNT .. tenant
  local number = redis.pcall('INCR', count_key)
  if type(number) ~= 'number' then -- another program wrote there
    redis.pcall('DEL', count_key)
    number = redis.pcall('INCR', count_key)
  end
  redis.pcall('PEXPIRE', count_key, COUNT_MS)
  local block_key, n = block_of(tenant, number)
  local name, record = cjson.encode({id, thread}), '\n' .. about
  if thread ~= '' then
    redis.pcall('HSET', OF_THREAD .. thread, id, record)
  else
    name = name .. '\n' .. record
  end
  local of_graph, of_user = 'graph:' .. graph, 'user:' .. user:gsub('^.-%-%-', '', 1)
  local at = string.char(math.floor(n / 256), n % 256)
  local listed = redis.pcall('HMGET', block_key, of_graph, of_user)
  redis.pcall('HSET', block_key, n, name, of_graph, (listed[1] or '') .. at, of_user, (listed[2] or '') .. at)
  if n == 0 or number == 1 then
    redis.pcall('HSET', block_key, 'since', whole(now_ms))
    redis.pcall('UNLINK', (block_of(tenant, number - most - EACH)))
  end
  redis.pcall('PEXPIRE', block_key, BLOCK_MS)
  return number
end

-- The first line of a record, of what a task's hash says, and when it was accepted (ms); false: there is no such task.
local function record_line(id, ended_ms, error_type)
  local state, graph, user, created, started, epoch, waits, input_tokens, output_tokens, cost = unpack(redis.call('HMGET',
    'agent:task:' .. id, 'state', 'graph', 'user', 'created', 'started', 'epoch', 'waits', 'input_tokens', 'output_tokens',
    'cost_nano_usd'))
  created = natural(created, 0)
  return state and cjson.encode({state, graph or '', (user or ''):gsub('^.-%-%-', '', 1), created,
    natural(started, 0), ended_ms, math.max(natural(epoch, 0) - natural(waits, 0), 0), natural(input_tokens, 0),
    natural(output_tokens, 0), natural(cost, 0), error_type or ''}), created
end

-- Complete the record of a task that has just ended, unless it was deleted or forgotten meanwhile. The number of the run is
-- false if an earlier version accepted it.
local function end_record(id, number, thread, state, error_type, now_ms)
  local line, created = record_line(id, now_ms, error_type)
  thread = thread or ''
  if thread ~= '' then
    local record = redis.pcall('HGET', OF_THREAD .. thread, id)
    if record then
      redis.pcall('HSET', OF_THREAD .. thread, id, line .. record:sub(record:find('\n', 1, true) or #record + 1))
    end
  end
  number = natural(number)
  if not number then
    return
  end
  local block_key, n = block_of(tenant_of(id), number)
  local entry, states = unpack(redis.pcall('HMGET', block_key, n, 'states'))
  local name = cjson.encode({id, thread})
  entry = entry or ''
  if entry:sub(1, #name) ~= name then
    return
  end
  if thread == '' then
    entry = name .. '\n' .. line .. '\n' .. entry:sub((entry:find('\n', #name + 2, true) or #entry) + 1)
  end
  redis.pcall('HSET', block_key, n, entry, 'states', with_letter(states, n, LETTERS[state]))
  if now_ms - created > SOON_MS then
    redis.pcall('PEXPIRE', block_key, BLOCK_MS)
  end
end

-- Forget the record of a run that was rolled back, once it is completed. The arguments are those of `end_record`.
local function forget_record(id, number, thread)
  thread = thread or ''
  if thread ~= '' then
    redis.pcall('HDEL', OF_THREAD .. thread, id)
  end
  number = natural(number)
  if number then
    local block_key, n = block_of(tenant_of(id), number)
    local entry, name = redis.pcall('HGET', block_key, n), cjson.encode({id, thread})
    if type(entry) == 'string' and entry:sub(1, #name) == name then
      redis.pcall('HDEL', block_key, n)
    end
  end
end
