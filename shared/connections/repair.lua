-- Redis as every script sees it: a key of another type than a command expects is as good as none (R15 in
-- docs/architecture.md). `load_script` puts this file before each script.
--
-- A client that may write to Redis can put a list where a hash should be. What stood there is lost already, so the
-- script that meets the list deletes it, says so in the log of the server, and goes on. A caller that may not delete it
-- gets the answer of an empty key. A field that should be a number and is none is deleted likewise.
--
-- Nearly all replies are no errors, and these functions are made and run in each call of a script: what they need for
-- errors only, they make then.
local server = redis

-- What becomes of an error reply: another reply, or the error if nothing can be done about it.
local function mended(reply, command, key, ...)
  local function discard(...)
    server.log(server.LOG_WARNING, 'langgraph-rq: data of another type than ' .. command .. ' expects are deleted: ' ..
      table.concat({...}, ' '))
    return server.pcall(...)
  end
  local problem, EMPTY_KEY = reply.err, 'agent:task:' -- no task has an empty id
  local is_no_number = problem:find('hash value is not an integer', 1, true) or problem:find('would overflow', 1, true)
  if problem:find('WRONGTYPE', 1, true) == 1 then
    local deleted = discard('DEL', key)
    if type(deleted) == 'table' then
      return server.pcall(command, EMPTY_KEY, ...)
    end
  elseif command == 'HINCRBY' and is_no_number then
    discard('HDEL', key, (...))
  else
    return reply
  end
  return server.pcall(command, key, ...)
end

local type, try = type, server.pcall

local function attempt(...)
  local reply = try(...)
  if type(reply) == 'table' and reply.err then
    return mended(reply, ...)
  end
  return reply
end

local function call(...)
  local reply = try(...)
  if type(reply) ~= 'table' or not reply.err then
    return reply
  end
  reply = mended(reply, ...)
  if type(reply) == 'table' and reply.err then
    return server.call(...) -- which raises it
  end
  return reply
end

local redis = {call = call, pcall = attempt, sha1hex = server.sha1hex}
