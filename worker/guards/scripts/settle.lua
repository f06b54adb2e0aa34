#!lua flags=allow-oom
-- Report a call's outcome to its breaker, settle its reservation, give back its tenant's place, add its usage to its task,
-- and correct what its rate was booked with. What this frees lets tasks go on that waited for it.
--
-- Uses worker/guards/functions/prelude: next_call
-- Uses worker/guards/functions/wakers: follow_report, follow_settle
-- Uses worker/guards/functions/tenant_calls: leave_place
-- Calls shared/breaker/report
-- Calls shared/budget/scripts/settle
-- Calls shared/queue/scripts/running/use
-- Calls shared/pacing/correct
--
-- Returns {reply of report, reply of settle}. Without keys for `use` the call belongs to no task, without keys for
-- `correct` its rate has no limit, without keys for its place its tenant has none.
local breaker, outcome = next_call()
local reported = report(breaker, outcome)
follow_report(breaker, outcome, reported)
local reservation, charge = next_call()
local settled = settle(reservation, charge)
local places, place = next_call()
if places[1] then
  leave_place(places, place)
end
follow_settle(charge[10], charge[11], charge[12])
local task, used = next_call()
if task[1] and settled[1] ~= 'repeated' then
  use(task, used)
end
local rate, more = next_call()
if rate[1] and settled[1] ~= 'repeated' then
  correct(rate, more)
end
return {reported, settled}
