#!lua flags=allow-oom
-- Charge reservations that are past their time, and let the tasks go on that waited for budgets: some hold less now.
--
-- Uses worker/guards/prelude: next_call
-- Calls shared/budget/scripts/expire
-- Calls shared/queue/scripts/wake
--
-- Returns the reply of expire
local expired = expire(next_call())
if #expired[1] > 0 then
  wake({}, {0, '', 'budget:*'})
end
return expired
