#!lua flags=no-writes
-- Read the next events of streams, as many of each as fit into a page.
--
-- KEYS from the 1st on: agent:events:<id>    stream
-- ARGV[1] most events of a page
-- ARGV[2] size at which a page ends (bytes of data); the step that passes it is still in the page
-- ARGV from the 3rd on: the place in each stream, after which to read
-- Returns a list of {number of the key, entries as XRANGE returns them}, of the streams that have any
local most, full = tonumber(ARGV[1]), tonumber(ARGV[2])

local FIRST = 2 -- the slot before the first place
local STEP = 4 -- entries, of 64 kB at most

local pages = {}
for i = 1, #KEYS do
  local page, size, place = {}, 0, ARGV[FIRST + i]
  repeat
    local entries = redis.call('XRANGE', KEYS[i], '(' .. place, '+', 'COUNT', STEP)
    for _, entry in ipairs(entries) do
      page[#page + 1] = entry
      place = entry[1]
      for _, text in ipairs(entry[2]) do
        size = size + #text
      end
    end
  until #entries < STEP or #page >= most or size >= full
  if #page > 0 then
    pages[#pages + 1] = {i, page}
  end
end
return pages
