-- The embeddings of items, of which each item has all in one place: in the hash of its namespace, as Python wrote them, or in
-- a vector set, as elements named by a number from 1 and the key of the item. A namespace has two vector sets: one while all
-- embeddings are of one length, the second while some of another length are left from another model.
--
-- Python writes embeddings that are not encrypted as HEADER, the number of their dimensions, and 32-bit floats.
local HEADER, DIMS, DIMS_BYTES, FLOAT_BYTES = '\5bytes', '<I4', 4, 4
local INDEXED = 8 -- embeddings of an item in a vector set, each of which takes milliseconds to add; more go to the hash
local VIEW = 100 -- embeddings that Redis compares a new one with at each step; its 200 take twice as long and find no better

-- Return the length of the embeddings in a vector set; nil if there is none. Servers before Redis 8 know no command of these.
local function dims_of(key)
  return redis.call('TYPE', key).ok == 'vectorset' and redis.call('VDIM', key) or nil
end

local function element(number, name)
  return number .. ' ' .. name
end

-- Take the embeddings of an item out of the vector sets; return how many there were.
local function drop_elements(keys, name)
  local dropped = 0
  if redis.call('EXISTS', unpack(keys.sets)) == 0 then
    return dropped
  end
  for _, key in ipairs(keys.sets) do
    if dims_of(key) then
      local number = 1
      while redis.call('VREM', key, element(number, name)) == 1 do
        number = number + 1
      end
      dropped = dropped + number - 1
    end
  end
  return dropped
end

-- Return the embeddings that Python wrote, each a string of floats, and their length; nil if there are none, or encrypted.
local function split_embeddings(written)
  if written:sub(1, #HEADER) ~= HEADER then
    return nil
  end
  local dims = struct.unpack(DIMS, written, #HEADER + 1)
  local embeddings = {}
  for first = #HEADER + DIMS_BYTES + 1, #written, dims * FLOAT_BYTES do
    embeddings[#embeddings + 1] = written:sub(first, first + dims * FLOAT_BYTES - 1)
  end
  return embeddings, dims
end

-- Choose the vector set that takes these embeddings; nil: they are too many, or both sets have those of other lengths.
local function set_for(keys, embeddings, dims)
  local empty
  for _, key in ipairs(keys.sets) do
    local found = dims_of(key)
    if found == dims and #embeddings <= INDEXED then
      return key
    end
    empty = empty or not found and key
  end
  return #embeddings <= INDEXED and empty or nil
end

local function add_elements(key, name, embeddings)
  for number, embedding in ipairs(embeddings) do
    redis.call('VADD', key, 'FP32', embedding, element(number, name), 'NOQUANT', 'EF', VIEW)
  end
end

-- Read the embeddings of an item out of the vector sets, as Python writes them; false if there are none.
local function read_elements(sets, name)
  for key, dims in pairs(sets) do
    local parts, number = {HEADER, struct.pack(DIMS, dims)}, 1
    local found = redis.call('VEMB', key, element(number, name), 'RAW')
    while found do
      parts[#parts + 1] = found[2]
      number = number + 1
      found = redis.call('VEMB', key, element(number, name), 'RAW')
    end
    if number > 1 then
      return table.concat(parts)
    end
  end
  return false
end
