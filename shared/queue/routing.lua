-- Routing: a task goes to its queue if every live worker of the queue serves its graph, else to the side queue
-- <queue>:<graph>, which only workers that serve the graph read (R20 in docs/architecture.md). Graphs are written as in
-- the names of queues, see `graph_part` in keys.py.
--
-- agent:serving:<queue>  zset  graphs that a live worker of the queue serves, ",a,b," -> until when (ms)

-- Lists of graphs that are compared; a fleet has one, or two while it is deployed.
local LISTS = 64

-- Whether the list `graphs` names the graph.
local function serves(graphs, graph)
  return graphs:find(',' .. graph .. ',', 1, true) ~= nil
end

local function live_lists(queue, now_ms)
  return redis.call('ZRANGE', 'agent:serving:' .. queue, string.format('(%.0f', now_ms), '+inf', 'BYSCORE',
    'LIMIT', 0, LISTS + 1)
end

-- The queue for a new task; its own while no worker is alive, whose graphs would be known.
local function route(queue, graph, now_ms)
  for i, graphs in ipairs(live_lists(queue, now_ms)) do
    if i > LISTS or not serves(graphs, graph) then
      return queue .. ':' .. graph
    end
  end
  return queue
end

-- What a task of this queue or its side queue waits for: worker (none is alive), queue (none reads it), graph (none that
-- reads it serves the graph), or empty: for its turn.
local function missing(queue, graph, now_ms)
  local live = live_lists(queue, now_ms)
  for i, graphs in ipairs(live) do
    if i > LISTS or serves(graphs, graph) then
      return ''
    end
  end
  if #live > 0 then
    return 'graph'
  end
  return redis.call('ZCOUNT', 'agent:workers', string.format('(%.0f', now_ms), '+inf') > 0 and 'queue' or 'worker'
end
