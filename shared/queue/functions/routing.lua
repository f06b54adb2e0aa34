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

-- Returns the queue for a new task, which is its own while no worker is alive, whose graphs would be known; and what is
-- missing of a worker that could run it: worker (none is alive), queue (none reads it), graph (none that reads it serves
-- the graph), or nothing: empty.
local function route(queue, graph, now_ms)
  local after_now = string.format('(%d', now_ms)
  local live = redis.call('ZRANGE', 'agent:serving:' .. queue, after_now, '+inf', 'BYSCORE', 'LIMIT', 0, LISTS + 1)
  local serving = 0
  for i = 1, math.min(#live, LISTS) do
    serving = serving + (serves(live[i], graph) and 1 or 0)
  end
  if #live == 0 then
    return queue, redis.call('ZCOUNT', 'agent:workers', after_now, '+inf') > 0 and 'queue' or 'worker'
  end
  return serving == #live and queue or queue .. ':' .. graph, (serving > 0 or #live > LISTS) and '' or 'graph'
end
