#!lua flags=allow-oom
-- Report a call's outcome to its breaker, settle its reservation, and add its usage to its task.
--
-- Uses worker/guards/prelude: next_call
-- Calls shared/breaker/report
-- Calls shared/budget/scripts/settle
-- Calls shared/queue/scripts/use
--
-- Returns {reply of report, reply of settle}. Without keys for `use` the call belongs to no task.
local reported = report(next_call())
local settled = settle(next_call())
local task, used = next_call()
if task[1] and settled[1] ~= 'repeated' then
  use(task, used)
end
return {reported, settled}
